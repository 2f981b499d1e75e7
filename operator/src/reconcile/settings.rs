//! Settings of the operator, from its environment.

use ambit_crds::PullSecret;

/// The data plane's images: whole references, with a tag or a digest.
#[derive(Clone, Debug, clap::Args)]
pub struct ImageSettings {
    /// The agents' image.
    #[arg(
        id = "agent-image",
        long,
        env = "AMBIT_AGENT_IMAGE",
        default_value = "localhost/ambit/agent:dev"
    )]
    pub agent: String,
    /// The ztunnels' image.
    #[arg(
        id = "ztunnel-image",
        long,
        env = "AMBIT_ZTUNNEL_IMAGE",
        default_value = "localhost/ambit/ztunnel:dev"
    )]
    pub ztunnel: String,
    /// The waypoints' image.
    #[arg(
        id = "waypoint-image",
        long,
        env = "AMBIT_WAYPOINT_IMAGE",
        default_value = "localhost/ambit/waypoint:dev"
    )]
    pub waypoint: String,
    /// When the kubelet pulls them: Always, IfNotPresent or Never.
    #[arg(
        long = "image-pull-policy",
        env = "AMBIT_IMAGE_PULL_POLICY",
        default_value = "IfNotPresent"
    )]
    pub pull_policy: String,
    /// Names of Secrets for pulling them, if the Mesh names none.
    #[arg(
        long = "image-pull-secrets",
        env = "AMBIT_IMAGE_PULL_SECRETS",
        value_delimiter = ','
    )]
    pub pull_secrets: Vec<String>,
}

/// Where the nodes have what the agent needs; platforms differ in it.
#[derive(Clone, Debug, clap::Args)]
pub struct HostSettings {
    /// The nodes' directory of CNI configurations.
    #[arg(
        long,
        env = "AMBIT_CNI_CONF_DIR",
        default_value = "/etc/cni/net.d",
        value_parser = absolute
    )]
    pub cni_conf_dir: String,
    /// The nodes' directory of CNI plugins.
    #[arg(
        long,
        env = "AMBIT_CNI_BIN_DIR",
        default_value = "/opt/cni/bin",
        value_parser = absolute
    )]
    pub cni_bin_dir: String,
    /// The container runtime's CRI socket on the nodes.
    #[arg(
        long,
        env = "AMBIT_RUNTIME_SOCKET",
        default_value = "/run/containerd/containerd.sock",
        value_parser = absolute
    )]
    pub runtime_socket: String,
    /// SELinux type of the agents' containers, where the platform's policy needs one.
    #[arg(long, env = "AMBIT_AGENT_SELINUX_TYPE", default_value = "")]
    pub agent_selinux_type: String,
}

impl HostSettings {
    /// The directory of the runtime's socket. The socket in it is another file once the runtime has restarted.
    pub(super) fn runtime_dir(&self) -> &str {
        self.runtime_socket
            .rsplit_once('/')
            .map_or("/", |(directory, _)| directory)
    }
}

/// A path below the root: the directory of a socket is mounted, and the root must not be.
fn absolute(path: &str) -> Result<String, String> {
    let below_root =
        path.starts_with('/') && path.rsplit_once('/').is_some_and(|(above, _)| !above.is_empty());
    match below_root && !path.split('/').any(|part| part == "..") {
        true => Ok(path.to_owned()),
        false => {
            Err("it must be an absolute path of at least two parts, as in /etc/cni, without `..`".to_owned())
        }
    }
}

/// Settings that every reconciler needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's own namespace: the data plane goes there.
    pub namespace: String,
    /// Name of this replica, for the lease and for Events.
    pub identity: String,
    /// The data plane's images.
    pub images: ImageSettings,
    /// Paths on the nodes.
    pub host: HostSettings,
    /// First part of workload UIDs.
    pub cluster_id: String,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// Log format of the data plane: text or json.
    pub log_format: String,
    /// Root certificate of the mesh's certificate authority, PEM.
    pub root_certificate: String,
}

impl Settings {
    /// Names of the Secrets for pulling a pod's image: those that are `given`, or the chart's.
    pub(super) fn pull_secrets<'a>(&'a self, given: &'a [PullSecret]) -> Vec<&'a str> {
        if !given.is_empty() {
            return given.iter().map(|secret| &*secret.name).collect();
        }
        let ours = self.images.pull_secrets.iter();
        ours.map(|name| &**name).filter(|name| !name.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_nodes_are_absolute_and_not_the_root() {
        for path in ["/run/k3s/containerd/containerd.sock", "/etc/cni"] {
            assert_eq!(absolute(path).as_deref(), Ok(path));
        }
        for path in [
            "",
            "/",
            "/containerd.sock",
            "run/containerd.sock",
            "/run/../etc/cni",
        ] {
            assert!(absolute(path).is_err(), "{path}");
        }
    }
}
