//! Cluster objects. In both processes: watches that feed the index. In the control plane: capture marks and the root
//! certificate. In the operator, with the lease: objects and statuses. Level-triggered: each pass compares the current
//! with the desired state.

mod apply;
mod check;
mod client;
mod conditions;
mod dataplane;
mod gateway;
mod health;
mod lease;
mod loads;
mod mesh;
mod metrics;
mod namespace;
mod nodes;
mod objects;
mod pace;
mod pods;
mod queue;
mod recorder;
mod register;
mod root;
mod route;
mod settings;
mod status;
mod watch;
mod waypoint;
mod writer;

pub use check::check;
pub use client::{RequestError, Requests, bounded};
pub use health::Health;
pub use lease::{Leadership, Lease};
pub use loads::{ControlPlanes, LoadFollower, LoadTable, ReplicaLoad};
pub use mesh::{LEAST_KUBERNETES, apply_mesh, uninstall};
pub use objects::{Live, Objects};
pub use recorder::Recorder;
pub use root::{RootReplaced, publish_root, root_certificate, root_replaced};
pub use settings::{HostSettings, ImageSettings, Settings};
pub use watch::watch;
pub use writer::Writer;

/// Field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = ambit_crds::labels::OPERATOR;

/// Why something could not be reconciled; it is retried.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server refused or did not respond.
    #[error("{what}: {source}")]
    Api {
        /// The action.
        what: String,
        /// The cause.
        source: Box<kube::Error>,
    },
    /// An object has no JSON form.
    #[error("{what}: {source}")]
    Json {
        /// The action.
        what: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// An object with a name that a waypoint needs belongs to somebody else.
    #[error(
        "{what} does not belong to Ambit and is not changed: delete it, or give the waypoint another \
         name"
    )]
    Taken {
        /// The object.
        what: String,
    },
    /// An object with a name that a waypoint needs has Ambit's labels, but Ambit did not create it.
    #[error("{what} has Ambit's labels, but Ambit did not create it")]
    Forged {
        /// The object.
        what: String,
        /// Its UID.
        uid: String,
    },
    /// Another program overwrites an object again and again.
    #[error(
        "{manager:?} overwrites {what} again and again; the operator corrects it in {pause:?} at the \
         earliest: let only one of the two write it"
    )]
    Contested {
        /// The object.
        what: String,
        /// Field manager of the other program.
        manager: String,
        /// How long the operator waits.
        pause: std::time::Duration,
    },
    /// The namespace of the object is being deleted, or is deleted.
    #[error("{what} is not created: its namespace is being deleted")]
    Leaving {
        /// The object.
        what: String,
    },
}

impl ReconcileError {
    /// As a metric label.
    fn reason(&self) -> &'static str {
        match self {
            Self::Api { .. } => "api",
            Self::Json { .. } => "json",
            Self::Taken { .. } => "taken",
            Self::Forged { .. } => "forged",
            Self::Contested { .. } => "contested",
            Self::Leaving { .. } => "namespace_terminating",
        }
    }

    fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api {
            what,
            source: Box::new(source),
        }
    }

    fn json(what: impl Into<String>) -> impl FnOnce(serde_json::Error) -> Self {
        let what = what.into();
        move |source| Self::Json { what, source }
    }
}

/// Whether the API server responds that the object does not exist.
fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the API server responds that nothing can be created in a namespace, since it is being deleted or does not
/// exist.
fn leaving(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let causes = status.details.iter().flat_map(|d| &d.causes);
    status.code == 404
        || status.code == 403
            && causes
                .into_iter()
                .any(|cause| cause.reason == "NamespaceTerminating")
}

/// Whether the API server responds with a conflict.
fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

#[cfg(test)]
mod testing;
