//! What connections hold for readers that do not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ambit_hbone::{HboneConfig, MemoryBudget, copy_tcp, copy_tunnel};
use ambit_tls::testing::TestCa;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::{Bytes, Destination, Source, WAIT, application, id, tcp_pair};

/// What one stream may hold by right: a window, and what waits to be sent.
const BY_RIGHT: u64 = (64 + 16) << 10;

/// A stream that carries so much needs a wide window.
const MUCH: usize = 4 << 20;

/// Far more than sockets take.
const ENDLESS: usize = 64 << 20;

struct Mesh {
    budget: MemoryBudget,
    destination: Destination,
    source: Source,
    listener: TcpListener,
    address: std::net::SocketAddr,
}

/// Two proxies that may borrow so much together.
async fn mesh(budget: usize, looks: Duration) -> Mesh {
    let budget = MemoryBudget::new(budget);
    let config = HboneConfig {
        memory: budget.clone(),
        // With each PING it is looked at whether windows are wide for nothing.
        ping_interval: looks,
        ..HboneConfig::default()
    };
    let ca = Arc::new(TestCa::new().unwrap());
    let destination = Destination::with(&ca, id("server"), config.clone()).await;
    let source = Source::with(&ca, id("client"), config);
    let (listener, address) = application().await;
    Mesh {
        budget,
        destination,
        source,
        listener,
        address,
    }
}

/// A connection between two applications, and what of it has gone through the client's proxy.
struct Joined {
    client: TcpStream,
    server: TcpStream,
    bytes: Arc<Bytes>,
}

impl Mesh {
    async fn join(&self) -> Joined {
        let stream = self.source.open(&self.destination, self.address).await.unwrap();
        let (server, _) = self.listener.accept().await.unwrap();
        let (client, accepted) = tcp_pair().await;
        let bytes = Arc::new(Bytes::default());
        let meter = Arc::clone(&bytes);
        tokio::spawn(async move { copy_tunnel(accepted, stream, &*meter).await });
        Joined {
            client,
            server,
            bytes,
        }
    }

    /// Resolves when nothing is lent any more.
    async fn all_is_back(&self) {
        let back = async {
            while self.budget.lent() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let came = tokio::time::timeout(WAIT, back).await;
        assert!(came.is_ok(), "{} bytes are lent", self.budget.lent());
    }

    /// So many bytes through a new connection, whose ends are left open.
    async fn transfer(&self, length: usize) -> Joined {
        let mut joined = self.join().await;
        exchange(&mut joined.server, &mut joined.client, length).await;
        joined
    }
}

/// What the proxies of these connections hold, in both directions; what is on its way between them counts.
fn held(mesh: &Mesh, joined: &[&Bytes]) -> u64 {
    let sum = |count: fn(&Bytes) -> &AtomicU64| -> u64 {
        joined
            .iter()
            .map(|bytes| count(bytes).load(Ordering::SeqCst))
            .sum()
    };
    let sent = sum(|bytes| &bytes.forward);
    let uploads = sent.saturating_sub(mesh.destination.bytes.backward.load(Ordering::SeqCst));
    let sent = mesh.destination.bytes.forward.load(Ordering::SeqCst);
    uploads + sent.saturating_sub(sum(|bytes| &bytes.backward))
}

async fn exchange(from: &mut TcpStream, to: &mut TcpStream, length: usize) {
    let data = vec![2; length];
    let writing = from.write_all(&data);
    let reading = async {
        let (mut heard, mut buffer) = (0, vec![0; 64 << 10]);
        while heard < length {
            let read = tokio::time::timeout(WAIT, to.read(&mut buffer)).await;
            let n = read
                .unwrap_or_else(|_| panic!("stalled after {heard} bytes"))
                .unwrap();
            assert_ne!(n, 0);
            heard += n;
        }
    };
    let (written, ()) = tokio::join!(writing, reading);
    written.unwrap();
}

/// A writer whose reader reads nothing.
fn speak(mut tcp: TcpStream) -> JoinHandle<std::io::Result<()>> {
    tokio::spawn(async move { tcp.write_all(&vec![1; ENDLESS]).await })
}

/// Many that do not read, in both directions, beside one that does, while there is next to nothing to lend.
async fn stalled_readers_hold_no_more_than_the_budget_and_their_right() {
    const STALLED: usize = 48;
    const BUDGET: usize = 2 << 20;
    let mesh = mesh(BUDGET, Duration::from_secs(10)).await;
    // It has wide windows before the others come.
    let mut fast = mesh.transfer(MUCH).await;
    let mut kept = Vec::new();
    for i in 0..STALLED {
        let Joined {
            client,
            server,
            bytes,
        } = mesh.join().await;
        let (speaks, reads_not) = if i % 2 == 0 {
            (client, server)
        } else {
            (server, client)
        };
        kept.push((speak(speaks), reads_not, bytes));
    }
    let bytes: Vec<&Bytes> = kept
        .iter()
        .map(|(.., bytes)| &**bytes)
        .chain([&*fast.bytes])
        .collect();
    let most = BUDGET as u64 + BY_RIGHT * bytes.len() as u64;
    for _ in 0..2 {
        exchange(&mut fast.server, &mut fast.client, MUCH).await;
        exchange(&mut fast.client, &mut fast.server, MUCH).await;
        let held = held(&mesh, &bytes);
        assert!(held <= most, "{held} of {most} bytes");
        assert!(mesh.budget.lent() <= BUDGET, "{}", mesh.budget.lent());
    }
    assert!(mesh.budget.denied() > 0);
    assert!(kept.iter().all(|(speaking, ..)| !speaking.is_finished()));
    // Whoever comes now is served, too.
    mesh.transfer(MUCH).await;
}

/// Windows that were needed once are given back.
async fn what_is_lent_comes_back_while_connections_stay_open() {
    let mesh = mesh(64 << 20, Duration::from_millis(50)).await;
    let mut joined = Vec::new();
    for _ in 0..4 {
        joined.push(mesh.transfer(MUCH).await);
    }
    assert!(mesh.budget.denied() == 0);
    mesh.all_is_back().await;
    for Joined { client, server, .. } in &mut joined {
        exchange(server, client, MUCH).await;
    }
}

/// The peer is told of a window when a third of it has been read. Narrowed before, it may be below nothing, with nothing left to be read.
async fn windows_that_are_narrowed_below_nothing_open_again() {
    let mesh = mesh(64 << 20, Duration::from_millis(20)).await;
    let Joined {
        mut client,
        mut server,
        ..
    } = mesh.join().await;
    for round in 0..32 {
        exchange(&mut server, &mut client, (1 << 20) + round * (4 << 10)).await;
        mesh.all_is_back().await;
        exchange(&mut server, &mut client, 1).await;
    }
}

/// Without a tunnel.
async fn plaintext_goes_on_when_nothing_is_lent() {
    for budget in [0, 1 << 20] {
        let budget = MemoryBudget::new(budget);
        let borrower = budget.borrower(&"pod".into());
        let (mut client, accepted) = tcp_pair().await;
        let (upstream, mut server) = tcp_pair().await;
        let copy =
            tokio::spawn(async move { copy_tcp(accepted, upstream, &borrower, &Bytes::default()).await });
        exchange(&mut client, &mut server, MUCH).await;
        exchange(&mut server, &mut client, MUCH).await;
        drop((client, server));
        let _ = copy.await.unwrap();
        assert_eq!(budget.lent(), 0);
    }
}

crate::support::on_both_runtimes! {
    stalled_readers_hold_no_more_than_the_budget_and_their_right,
    what_is_lent_comes_back_while_connections_stay_open,
    windows_that_are_narrowed_below_nothing_open_again,
    plaintext_goes_on_when_nothing_is_lent,
}
