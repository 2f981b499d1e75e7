//! `HTTPRoute`, `GRPCRoute`, `TCPRoute` and `TLSRoute` as Kubernetes objects.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Serialize};

use super::{GROUP, RouteSpec, RouteStatus};

/// A kind of route.
pub trait RouteKind: Clone + fmt::Debug + Default + Send + Sync + 'static {
    /// `kind`
    const KIND: &'static str;
    /// The name in URLs.
    const PLURAL: &'static str;
}

/// `HTTPRoute`
#[derive(Clone, Debug, Default)]
pub struct HttpRouteKind;

impl RouteKind for HttpRouteKind {
    const KIND: &'static str = "HTTPRoute";
    const PLURAL: &'static str = "httproutes";
}

/// `GRPCRoute`
#[derive(Clone, Debug, Default)]
pub struct GrpcRouteKind;

impl RouteKind for GrpcRouteKind {
    const KIND: &'static str = "GRPCRoute";
    const PLURAL: &'static str = "grpcroutes";
}

/// `TCPRoute`
#[derive(Clone, Debug, Default)]
pub struct TcpRouteKind;

impl RouteKind for TcpRouteKind {
    const KIND: &'static str = "TCPRoute";
    const PLURAL: &'static str = "tcproutes";
}

/// `TLSRoute`
#[derive(Clone, Debug, Default)]
pub struct TlsRouteKind;

impl RouteKind for TlsRouteKind {
    const KIND: &'static str = "TLSRoute";
    const PLURAL: &'static str = "tlsroutes";
}

/// A route.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(bound = "")]
pub struct Route<K: RouteKind> {
    /// Metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Desired state.
    #[serde(default)]
    pub spec: RouteSpec,
    /// What each controller says of it.
    #[serde(default)]
    pub status: RouteStatus,
    #[serde(skip)]
    kind: PhantomData<K>,
}

/// `HTTPRoute`
pub type HttpRoute = Route<HttpRouteKind>;
/// `GRPCRoute`
pub type GrpcRoute = Route<GrpcRouteKind>;
/// `TCPRoute`
pub type TcpRoute = Route<TcpRouteKind>;
/// `TLSRoute`
pub type TlsRoute = Route<TlsRouteKind>;

impl<K: RouteKind> Resource for Route<K> {
    type DynamicType = ();
    type Scope = kube::core::NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        K::KIND.into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        K::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
