//! A follower and replicas of the control plane, over TLS.

use ambit_wire::waypoint::waypoint_client::WaypointClient;
use ambit_wire::waypoint::{Load, LoadAck};
use prometheus::Registry;
use tokio::net::TcpSocket;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use super::*;
use crate::control::CertificateAuthority;
use crate::control::testing::{Cluster, Running};
use crate::index::Key;
use crate::reconcile::pods::OwnPod;

/// Replicas of one control plane, and a follower of them.
struct World {
    cluster: Arc<Cluster>,
    authority: Arc<CertificateAuthority>,
    objects: Arc<Objects>,
    table: Arc<LoadTable>,
    leads: watch::Sender<bool>,
    stop: CancellationToken,
    /// At 127.0.0.2, on the port of the first replica: nobody else takes it, and it refuses connections until it
    /// listens.
    second: Option<TcpSocket>,
    token: tempfile::NamedTempFile,
}

/// Sockets at 127.0.0.1 and 127.0.0.2, on the same port.
fn sockets() -> (TcpSocket, TcpSocket) {
    let bind = |ip: [u8; 4], port: u16| {
        let socket = TcpSocket::new_v4()?;
        socket.bind((ip, port).into())?;
        std::io::Result::Ok(socket)
    };
    let both = (0..100).find_map(|_| {
        let first = bind([127, 0, 0, 1], 0).unwrap();
        // One that is free at the first address may be taken at the second.
        let second = bind([127, 0, 0, 2], first.local_addr().unwrap().port()).ok()?;
        Some((first, second))
    });
    both.unwrap()
}

/// Waits for what takes no time where all is well.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), what).await.expect("in time")
}

/// A waypoint's replica that reports.
type Reporter = (mpsc::UnboundedSender<Load>, Streaming<LoadAck>);

impl World {
    /// With one replica, at the first address.
    async fn begin() -> (Self, Running) {
        let cluster = Arc::new(Cluster::default());
        let authority = Arc::new(CertificateAuthority::generate().unwrap());
        let (first, second) = sockets();
        let first = Running::replica(first.listen(64).unwrap(), &authority, &cluster);
        let objects = Arc::new(Objects::default());
        let table = Arc::new(LoadTable::new(&Registry::new()).unwrap());
        let (leads, leadership) = watch::channel(false);
        let world = Self {
            second: Some(second),
            cluster,
            authority,
            objects,
            table,
            leads,
            stop: CancellationToken::new(),
            token: tempfile::NamedTempFile::new().unwrap(),
        };
        std::fs::write(world.token.path(), world.cluster.operator()).unwrap();
        let planes = ControlPlanes {
            namespace: "ambit-system".into(),
            name: "localhost".into(),
            port: first.address.port(),
            root_certificate: world.authority.root_pem().to_owned(),
            token: TokenFile::new(world.token.path()),
        };
        let (objects, table) = (Arc::clone(&world.objects), Arc::clone(&world.table));
        let follower = LoadFollower::new(planes, objects, table, leadership);
        tokio::spawn(follower.run(world.stop.clone()));
        world.pod("control-1", Some("127.0.0.1"));
        (world, first)
    }

    /// Another replica, at 127.0.0.2.
    fn replica(&mut self) -> Running {
        let listener = self.second.take().unwrap().listen(64).unwrap();
        Running::replica(listener, &self.authority, &self.cluster)
    }

    /// The pod of a replica comes, or goes.
    fn pod(&self, name: &str, ip: Option<&str>) {
        let pod = ip.map(|ip| OwnPod {
            component: "ambit-control".into(),
            address: Some(ip.parse().unwrap()),
            running: true,
            ..OwnPod::default()
        });
        self.objects.set_own_pod(&Key::new("ambit-system", name), pod);
    }

    /// A waypoint's replica reports to `running`.
    async fn reports(&self, running: &Running, namespace: &str, in_flight_milli: u64) -> Reporter {
        let token = self.cluster.waypoint(namespace, "waypoint");
        let mut client = WaypointClient::with_interceptor(running.channel(), running.file(&token));
        let (reports, outgoing) = mpsc::unbounded_channel();
        reports
            .send(Load {
                in_flight_milli,
                ..Load::default()
            })
            .unwrap();
        let acks = client
            .report(UnboundedReceiverStream::new(outgoing))
            .await
            .unwrap();
        (reports, acks.into_inner())
    }

    /// Waits until the table has this of the waypoint's replica.
    async fn shows(&self, namespace: &str, in_flight_milli: Option<u64>) {
        let uid = format!("{namespace}-waypoint-0-uid");
        soon(async {
            while self.table.get(&uid).map(|load| load.in_flight_milli) != in_flight_milli {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn leader_collects_load_of_all_control_planes() {
    let (mut world, first) = World::begin().await;
    let second = world.replica();
    world.pod("control-2", Some("127.0.0.2"));
    let (shop, _shop_acks) = world.reports(&first, "shop", 1000).await;
    let _pay = world.reports(&second, "pay", 2000).await;
    world.leads.send_replace(true);
    world.shows("shop", Some(1000)).await;
    world.shows("pay", Some(2000)).await;
    shop.send(Load {
        in_flight_milli: 1500,
        ..Load::default()
    })
    .unwrap();
    world.shows("shop", Some(1500)).await;
    world.leads.send_replace(false);
    world.shows("shop", None).await;
    world.shows("pay", None).await;
    world.leads.send_replace(true);
    world.shows("shop", Some(1500)).await;
    world.stop.cancel();
    world.shows("shop", None).await;
}

#[tokio::test]
async fn replica_is_told_what_to_hand_to_others() {
    let (world, first) = World::begin().await;
    world.leads.send_replace(true);
    let (shop, mut acks) = world.reports(&first, "shop", 9000).await;
    world.shows("shop", Some(9000)).await;
    world.table.spread(vec![("shop-waypoint-0-uid".to_owned(), 4000)]);
    soon(async {
        while acks.message().await.unwrap().unwrap().excess_milli != 4000 {
            shop.send(Load::default()).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn replaced_control_plane_is_followed() {
    let (mut world, first) = World::begin().await;
    world.leads.send_replace(true);
    let reporter = world.reports(&first, "shop", 1000).await;
    world.shows("shop", Some(1000)).await;
    first.begin_shutdown();
    drop(reporter);
    soon(first.ended()).await;
    world.shows("shop", None).await;
    world.pod("control-1", None);

    let second = world.replica();
    world.pod("control-2", Some("127.0.0.2"));
    let _reporter = world.reports(&second, "shop", 3000).await;
    world.shows("shop", Some(3000)).await;
}

/// The pod is there before its process answers.
#[tokio::test]
async fn control_plane_is_called_until_it_responds() {
    let (mut world, _first) = World::begin().await;
    world.leads.send_replace(true);
    world
        .cluster
        .not_ready
        .store(true, std::sync::atomic::Ordering::SeqCst);
    world.pod("control-2", Some("127.0.0.2"));
    let second = world.replica();
    soon(async {
        while second.refused("unavailable") == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    world
        .cluster
        .not_ready
        .store(false, std::sync::atomic::Ordering::SeqCst);
    let _reporter = world.reports(&second, "shop", 3000).await;
    world.shows("shop", Some(3000)).await;
}
