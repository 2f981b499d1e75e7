use std::io::Read;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::run_control;

const WAIT: Duration = Duration::from_secs(30);

fn workers(count: usize) -> Workers {
    Workers::start_many("data", NonZero::new(count).unwrap()).unwrap()
}

fn thread_name() -> String {
    thread::current().name().unwrap_or_default().to_owned()
}

/// A client's end of a connection, and the other one, as accepted by the control work.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// Answers each byte with the name of the thread.
async fn serve(given: Given) {
    let mut tcp = given.take().unwrap();
    while tcp.read_u8().await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let name = thread_name();
        tcp.write_u8(name.len() as u8).await.unwrap();
        tcp.write_all(name.as_bytes()).await.unwrap();
    }
}

async fn asked(client: &mut TcpStream) -> String {
    client.write_u8(b'?').await.unwrap();
    let mut name = vec![0; client.read_u8().await.unwrap().into()];
    client.read_exact(&mut name).await.unwrap();
    String::from_utf8(name).unwrap()
}

/// Bytes and timers of a connection are served by one thread, and connections at the same time by different ones.
#[test]
fn a_connection_stays_on_its_thread() {
    let workers = workers(2);
    let shards = workers.shards();
    let threads = run_control(async |_| {
        let mut threads = Vec::new();
        let mut clients = Vec::new();
        for _ in 0..2 {
            let (mut client, accepted) = connection().await;
            shards.give(accepted, |(), given| serve(given)).unwrap();
            let first = asked(&mut client).await;
            for _ in 0..20 {
                assert_eq!(asked(&mut client).await, first);
            }
            threads.push(first);
            clients.push(client);
        }
        threads
    })
    .unwrap();
    assert_eq!(threads, ["data-0", "data-1"]);
}

#[test]
fn connections_go_where_there_are_the_fewest_tasks() {
    let workers = workers(3);
    let shards = workers.shards().each(|| ());
    run_control(async |_| {
        let mut clients = Vec::new();
        let give = async |clients: &mut Vec<(TcpStream, String)>| {
            let (mut client, accepted) = connection().await;
            shards.give(accepted, |(), given| serve(given)).unwrap();
            let thread = asked(&mut client).await;
            clients.push((client, thread.clone()));
            thread
        };
        for _ in 0..6 {
            give(&mut clients).await;
        }
        let on = |name: &str| clients.iter().filter(|(_, thread)| thread == name).count();
        assert_eq!(["data-0", "data-1", "data-2"].map(on), [2, 2, 2]);
        // Work besides connections counts, too.
        let busy = tokio::task::spawn_blocking({
            let handle = workers.handles[0].clone();
            move || handle.spawn(std::future::pending::<()>())
        });
        let _busy = busy.await.unwrap();
        // Those of one worker end.
        clients.retain(|(_, thread)| thread != "data-1");
        while workers.handles[1].metrics().num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(give(&mut clients).await, "data-1");
        assert_eq!(give(&mut clients).await, "data-1");
        assert_eq!(give(&mut clients).await, "data-1");
        // It has three by now, as the first one.
        assert_eq!(give(&mut clients).await, "data-2");
    })
    .unwrap();
}

/// Blocks every worker, as a stalled data path would, and has control work done meanwhile.
#[test]
fn control_work_goes_on_while_workers_are_busy() {
    let workers = workers(2);
    let barrier = Arc::new(Barrier::new(3));
    let done = run_control(async |_| {
        for handle in &workers.handles {
            let barrier = Arc::clone(&barrier);
            handle.spawn(async move {
                barrier.wait();
            });
        }
        let done = tokio::spawn(async { thread_name() }).await.unwrap();
        barrier.wait();
        done
    })
    .unwrap();
    assert_eq!(done, "control");
}

/// One worker is blocked; the connections of the other are served.
#[test]
fn a_busy_worker_holds_up_no_other() {
    let workers = workers(2);
    let shards = workers.shards();
    let (go, wait) = mpsc::channel::<()>();
    let blocked = workers.handles[0].spawn(async move { wait.recv().is_ok() });
    let served = run_control(async |_| {
        let (mut client, accepted) = connection().await;
        shards.give(accepted, |(), given| serve(given)).unwrap();
        let served = tokio::time::timeout(WAIT, asked(&mut client)).await.unwrap();
        go.send(()).unwrap();
        assert!(blocked.await.unwrap());
        served
    })
    .unwrap();
    assert_eq!(served, "data-1");
}

/// What each worker has is made in its runtime, and connections get what their own worker has.
#[test]
fn what_a_worker_has_is_made_in_its_runtime() {
    let workers = workers(2);
    let mut number = 0;
    let shards = workers.shards().each(|| {
        number += 1;
        (number, tokio::spawn(async { thread_name() }))
    });
    run_control(async |_| {
        for _ in 0..2 {
            let (mut client, accepted) = connection().await;
            let answer = |own: &(u8, _), given: Given| {
                let number = own.0;
                async move { given.take().unwrap().write_all(&[number]).await.unwrap() }
            };
            shards.give(accepted, answer).unwrap();
            assert!((1..=2).contains(&client.read_u8().await.unwrap()));
        }
        let mut names = Vec::new();
        for (_, task) in shards.0.into_iter().map(|shard| shard.own) {
            names.push(task.await.unwrap());
        }
        assert_eq!(names, ["data-0", "data-1"]);
    })
    .unwrap();
}

/// Tasks that never end by themselves are dropped on their own thread, before the workers are gone.
#[test]
fn the_end_of_workers_ends_their_tasks() {
    struct Tells(mpsc::Sender<String>);
    impl Drop for Tells {
        fn drop(&mut self) {
            self.0.send(thread_name()).unwrap();
        }
    }
    let workers = workers(2);
    let (ended, ends) = mpsc::channel();
    let mut client = run_control(async |_| {
        let (client, accepted) = connection().await;
        let tells = Tells(ended.clone());
        let serve = move |(): &(), given: Given| async move {
            let (_tcp, _tells) = (given.take().unwrap(), tells);
            std::future::pending().await
        };
        workers.shards().give(accepted, serve).unwrap();
        client.into_std().unwrap()
    })
    .unwrap();
    let tells = Tells(ended);
    workers.handles[1].spawn(async move {
        let _tells = tells;
        std::future::pending::<()>().await;
    });
    drop(workers);
    let mut names: Vec<_> = ends.try_iter().collect();
    names.sort();
    assert_eq!(names, ["data-0", "data-1"]);
    client.set_nonblocking(false).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "the connection has ended");
}

#[test]
fn there_is_a_worker_for_each_cpu() {
    let cpus = thread::available_parallelism().unwrap().get();
    assert_eq!(Workers::start("data").unwrap().shards().iter().count(), cpus);
}
