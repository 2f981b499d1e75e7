use super::*;
use crate::runtime::Sandbox;

#[derive(Debug)]
struct OneZtunnel {
    pid: i32,
}

#[async_trait::async_trait]
impl Runtime for OneZtunnel {
    async fn sandbox(&self, _: &str) -> Result<Option<Sandbox>, RuntimeError> {
        Ok(None)
    }

    async fn is_ztunnel(&self, pid: i32) -> Result<bool, RuntimeError> {
        Ok(pid == self.pid)
    }
}

fn me() -> i32 {
    i32::try_from(std::process::id()).expect("a pid")
}

async fn check(ztunnel: i32, uid: u32, pid: Option<i32>) -> Result<(), Refusal> {
    let (ours, _theirs) = Channel::pair().expect("a pair");
    let peers = ZtunnelPeers::new(Arc::new(OneZtunnel { pid: ztunnel }));
    peers.check(&ours, PeerCredentials { pid, uid, gid: uid }).await
}

#[tokio::test]
async fn a_ztunnels_first_process_is_let_in() {
    check(me(), PROXY_UID, Some(me())).await.expect("let in");
}

#[tokio::test]
async fn another_user_is_refused_even_root() {
    assert!(matches!(check(me(), 0, Some(me())).await, Err(Refusal::Uid(0))));
}

#[tokio::test]
async fn another_process_of_the_user_is_refused() {
    assert!(matches!(
        check(1, PROXY_UID, Some(me())).await,
        Err(Refusal::NotZtunnel)
    ));
}

#[tokio::test]
async fn a_process_of_a_foreign_pid_namespace_is_refused() {
    assert!(matches!(
        check(me(), PROXY_UID, None).await,
        Err(Refusal::NotVisible)
    ));
}

#[test]
fn the_end_of_a_process_is_seen() {
    let mut child = std::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("cat starts");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("not 0");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("opened");
    assert!(!has_ended(&process));
    drop(child.stdin.take());
    child.wait().expect("ended");
    assert!(has_ended(&process));
}
