//! Routing of HTTP and gRPC requests, as the Gateway API v1.6 describes `HTTPRoute` and `GRPCRoute`, and of connections
//! (`TCPRoute`, `TLSRoute`). Pure: no I/O, no clock, no randomness of its own.
//!
//! 1. A [`RouteSpec`] is the input: the rules of one route, as its author wrote them.
//! 2. [`RouteTable::compile`] checks the specs of all routes of one frontend and builds the table.
//!    [`RouteTable::lookup`] finds the rule for a [`RequestHead`], by the API's precedence.
//! 3. The result is a [`Plan`]: what to do with the request. Its parts are plain functions over heads:
//!    [`HeaderEdit`], [`Rewrite`], [`Redirect`], [`Cors`], [`Split`], [`Mirror`], [`Retry`].
//!
//! Connections have a [`ConnectionTable`] and the same plans; [`HelloReader`] finds the server name that a TLS client
//! asks for.
//!
//! Invalid input closes what it concerns and nothing else: see [`RouteTable::compile`].

mod client_hello;
mod connection;
mod edit;
mod error;
mod matching;
mod pattern;
mod plan;
mod spec;
mod split;
mod table;

pub use client_hello::{ClientHello, HelloError, HelloReader, MAX_CLIENT_HELLO};
pub use connection::{ConnectionTable, ServerNames};
pub use edit::cors::{Cors, CorsResponse, Preflight};
pub use edit::headers::HeaderEdit;
pub use edit::redirect::{Redirect, RequestTarget};
pub use edit::rewrite::{PathEdit, Rewrite};
pub use error::{Reason, SpecError, ValueTooLong};
pub use matching::RequestHead;
pub use pattern::{PATTERN_SIZE_LIMIT, PATTERN_VALUE_LIMIT};
pub use plan::{Action, Filters, MAX_RETRIES, Mirror, Plan, Retry, RuleId, Timeouts};
pub use spec::{
    BackendSpec, CorsSpec, FilterSpec, Fraction, HeaderEditSpec, HeaderSpec, MatchSpec, MirrorSpec,
    NamedMatch, PathEditSpec, PathMatch, RedirectSpec, RetrySpec, RewriteSpec, RouteKind, RouteName,
    RouteSpec, RuleSpec, TimeoutSpec, UnknownKind, ValueMatch,
};
pub use split::{Backend, Split};
pub use table::{RouteTable, Shadowed};
