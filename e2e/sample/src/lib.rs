//! What the sample application speaks over gRPC, for the application itself and for the tests. The application is the
//! binary `ambit-sample`.

mod exercise;

/// Messages, client and server of `proto/echo.proto`.
#[allow(missing_docs, clippy::all)]
pub mod echo {
    tonic::include_proto!("ambit.sample.v1");
}

pub use exercise::{Exercise, ExerciseError, exercise};

/// Trailer of streams: how many messages they carried.
pub const TRAILER_COUNT: &str = "x-sample-count";
/// Trailer of failures: what was said.
pub const TRAILER_DETAIL: &str = "x-sample-detail";
