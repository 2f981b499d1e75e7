//! Settings of the operator, from its environment.

use ambit_crds::PullSecret;

/// The data plane's images.
#[derive(Clone, Debug, clap::Args)]
pub struct ImageSettings {
    /// Registry and path in front of the image names.
    #[arg(
        long = "image-registry",
        env = "AMBIT_IMAGE_REGISTRY",
        default_value = "localhost/ambit"
    )]
    pub registry: String,
    /// Tag of the images.
    #[arg(long = "image-tag", env = "AMBIT_IMAGE_TAG", default_value = "dev")]
    pub tag: String,
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

/// Settings that every reconciler needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's own namespace: the data plane goes there.
    pub namespace: String,
    /// Name of this replica, for the lease and for Events.
    pub identity: String,
    /// The data plane's images.
    pub images: ImageSettings,
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

    /// An image of Ambit's.
    pub(super) fn image(&self, name: &str) -> String {
        format!("{}/{name}:{}", self.images.registry, self.images.tag)
    }
}
