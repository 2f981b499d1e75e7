//! The data path, over real TLS and HBONE on loopback.

mod answers;
mod conformance;
mod connection_routes;
mod connections;
mod drain;
mod fields;
mod floods;
mod hosts;
mod isolation;
mod joining;
mod malformed;
mod memory;
mod overload;
mod passthrough;
mod paths;
mod retries;
mod routes;
mod rules;
mod scoped;
mod shards;
mod smuggling;
mod streaming;
mod support;
mod truth;
mod unserved;
mod upgrades;
