//! Kinds of the Gateway API, as far as the operator reads them.
//!
//! They are read leniently: values that a later version of the API adds must not hide the rest of an object, so enums
//! are strings, and unknown fields are dropped. The kinds of routes differ only in their matches, and share one
//! type. Source: <https://gateway-api.sigs.k8s.io/reference/spec/>, version 1.6.

mod class;
mod declared;
mod grant;
mod kind;
mod route;

pub use class::{FEATURES, GatewayClass, GatewayClassSpec, SupportStatus, XMesh, XMeshSpec};
pub use declared::{
    AllowedRoutes, Gateway, GatewaySpec, GatewayStatus, GatewayStatusAddress, Infrastructure, Listener,
    ListenerStatus, RouteGroupKind, RouteNamespaces,
};
pub use grant::{GrantFrom, GrantSpec, GrantTo, ReferenceGrant};
pub use kind::{
    GrpcRoute, GrpcRouteKind, HttpRoute, HttpRouteKind, Route, RouteKind, TcpRoute, TcpRouteKind, TlsRoute,
    TlsRouteKind,
};
pub use route::*;

/// The API group.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// Name of Ambit in `controllerName`, and in the statuses that it writes.
pub const CONTROLLER: &str = "ambit.dev/operator";
/// GatewayClass of waypoints, which the operator creates.
pub const WAYPOINT_CLASS: &str = "ambit-waypoint";
/// GatewayClass of Istio's waypoints: Ambit takes it where nobody else has it.
pub const ISTIO_WAYPOINT_CLASS: &str = "istio-waypoint";
