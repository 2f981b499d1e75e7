//! Messages and protocols between Ambit's programs, and with a foreign ztunnel or control plane.
//!
//! The protobuf modules have the names of their packages. [`names`] has constants that both ends must agree on.

pub mod authorization;
pub mod broker_channel;
pub mod control_channel;
pub mod features;
pub mod istio_ca;
pub mod names;
pub mod waypoint_policy;
pub mod waypoint_route;
pub mod xds;

pub use control_channel::{ControlChannelError, TokenFile, control_channel, control_channel_at};

macro_rules! protobuf {
    ($(#[$doc:meta])* $module:ident, $package:literal) => {
        $(#[$doc])*
        #[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used, rustdoc::all, unreachable_pub)]
        pub mod $module {
            tonic::include_proto!($package);
        }
    };
}

/// Generated from `proto/`. The modules follow the protobuf packages, since the generated code refers to itself that
/// way.
pub mod istio {
    protobuf!(
        /// `istio.workload`: workloads and services.
        workload, "istio.workload"
    );
    protobuf!(
        /// `istio.security`: L4 authorization.
        security, "istio.security"
    );
}
pub use istio::{security, workload};

/// Like [`istio`], for types that refer to types of that module.
pub mod ambit {
    /// `ambit.waypoint`.
    pub mod waypoint {
        protobuf!(
            /// `ambit.waypoint.v1`: control plane and waypoint.
            v1, "ambit.waypoint.v1"
        );
    }
}
pub use ambit::waypoint::v1 as waypoint;

protobuf!(
    /// `istio.v1.auth`: the CA call.
    ca, "istio.v1.auth"
);
protobuf!(
    /// `envoy.service.discovery.v3`: delta xDS.
    discovery, "envoy.service.discovery.v3"
);
protobuf!(
    /// `ambit.agent.v1`: control plane and node agent.
    agent, "ambit.agent.v1"
);
protobuf!(
    /// `ambit.loads.v1`: control plane and operator.
    loads, "ambit.loads.v1"
);
protobuf!(
    /// `ambit.broker.v1`: node agent and ztunnel.
    broker, "ambit.broker.v1"
);
protobuf!(
    /// `runtime.v1`: the calls of the Container Runtime Interface that the agent makes.
    cri, "runtime.v1"
);

/// The beginning of `text`, at most `longest` bytes. Text from peers is cut before it is logged, stored or forwarded.
pub fn clipped(text: &str, longest: usize) -> &str {
    let mut end = text.len().min(longest);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
