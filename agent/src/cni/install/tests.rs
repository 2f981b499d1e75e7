use super::*;
use std::sync::Arc;

const LIST: &str =
    "{\n  \"name\": \"pods\",\n  \"cniVersion\": \"1.0.0\",\n  \"plugins\": [ {\"type\": \"bridge\"} ]\n}\n";

struct Node {
    _directory: tempfile::TempDir,
    installation: Installation,
}

fn node(files: &[(&str, &str)]) -> Node {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    for name in ["bin", "net.d", "state"] {
        std::fs::create_dir(path(name)).expect("made");
    }
    for (name, text) in files {
        std::fs::write(path("net.d").join(name), text).expect("written");
    }
    let installation = Installation {
        binaries: path("bin"),
        configs: path("net.d"),
        backup: path("state").join("cni-original.json"),
        exempt_namespaces: vec!["kube-system".into()],
        socket: "/run/ambit/cni/cni.sock".into(),
    };
    Node {
        _directory: directory,
        installation,
    }
}

impl Node {
    fn config(&self, name: &str) -> String {
        std::fs::read_to_string(self.installation.configs.join(name)).expect("there")
    }

    fn files(&self) -> Vec<String> {
        let mut names = vec![];
        for directory in [&self.installation.configs, &self.installation.binaries] {
            for entry in std::fs::read_dir(directory).expect("listed") {
                names.push(
                    entry
                        .expect("an entry")
                        .file_name()
                        .into_string()
                        .expect("a name"),
                );
            }
        }
        names.sort();
        names
    }
}

#[test]
fn uninstalling_leaves_the_node_as_it_was() {
    let node = node(&[("10-pods.conflist", LIST), ("99-other.conflist", LIST)]);
    node.installation.install_binary().expect("copied");
    assert!(node.installation.configure().expect("edited"));
    assert!(node.config("10-pods.conflist").contains(PLUGIN));
    assert!(
        !node.config("99-other.conflist").contains(PLUGIN),
        "only the one in use"
    );
    node.installation.uninstall().expect("undone");
    assert_eq!(node.config("10-pods.conflist"), LIST, "byte for byte");
    assert_eq!(node.files(), ["10-pods.conflist", "99-other.conflist"]);
    node.installation.uninstall().expect("undoing twice is no error");
}

#[test]
fn a_single_plugins_file_is_converted_and_restored() {
    let single = "{ \"cniVersion\": \"0.4.0\", \"name\": \"pods\", \"type\": \"bridge\" }";
    let node = node(&[("10-pods.conf", single)]);
    assert!(node.installation.configure().expect("edited"));
    assert_eq!(node.files(), ["10-pods.conflist"]);
    assert!(!node.installation.configure().expect("nothing to do"));
    node.installation.uninstall().expect("undone");
    assert_eq!(
        (node.files(), node.config("10-pods.conf").as_str()),
        (vec!["10-pods.conf".to_owned()], single)
    );
}

#[test]
fn what_somebody_changed_meanwhile_is_kept() {
    let node = node(&[("10-pods.conflist", LIST)]);
    node.installation.configure().expect("edited");
    let changed = node.config("10-pods.conflist").replace("bridge", "ptp");
    std::fs::write(node.installation.configs.join("10-pods.conflist"), changed).expect("written");
    node.installation.uninstall().expect("undone");
    let text = node.config("10-pods.conflist");
    assert!(text.contains("ptp") && !text.contains(PLUGIN), "{text}");
}

#[test]
fn without_a_network_there_is_nothing_to_do_yet() {
    let node = node(&[]);
    let error = node.installation.configure().expect_err("no configuration");
    assert!(error.to_string().contains("network plugin"), "{error}");
}

#[tokio::test]
async fn an_overwritten_configuration_is_repaired() {
    let node = node(&[("10-pods.conflist", LIST)]);
    let metrics = Metrics::new().expect("metrics");
    let installer = Arc::new(Installer::new(node.installation.clone(), metrics.clone()));
    let mut installed = installer.installed();
    let stop = CancellationToken::new();
    let keeper = tokio::spawn({
        let (installer, stop) = (Arc::clone(&installer), stop.clone());
        async move { installer.keep(stop).await }
    });
    installed
        .wait_for(|installed| *installed)
        .await
        .expect("installed");
    let path = node.installation.configs.join("10-pods.conflist");
    write_atomically(&path, LIST.as_bytes(), 0o644).expect("overwritten");
    while !node.config("10-pods.conflist").contains(PLUGIN) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.cancel();
    keeper.await.expect("ended");
    assert!(
        node.config("10-pods.conflist").contains(PLUGIN),
        "stopping does not uninstall"
    );
    installer.uninstall().await.expect("undone");
    assert_eq!(node.config("10-pods.conflist"), LIST);
}
