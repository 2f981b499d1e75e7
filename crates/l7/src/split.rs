//! Spreading requests over backends by weight.

use std::sync::Arc;

use crate::error::{At, FieldResult};
use crate::{BackendSpec, Filters, Reason};

/// The API's bound for a weight.
const MAX_WEIGHT: u32 = 1_000_000;

/// A backend of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// The caller's identifier of the backend.
    pub id: Box<str>,
    /// Its port.
    pub port: u16,
    /// What is done to requests for this backend, after the rule's filters.
    pub filters: Filters,
    weight: u32,
    valid: bool,
}

impl Backend {
    /// Its weight. Its share is this, of the sum of all weights.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// Whether the reference is valid: the share of an invalid one gets status 500.
    pub fn is_valid(&self) -> bool {
        self.valid
    }
}

/// The backends of a rule with their shares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Split {
    backends: Box<[Arc<Backend>]>,
    total: u64,
}

impl Split {
    pub(crate) fn compile(specs: &[BackendSpec], prefix: Option<&str>) -> FieldResult<Self> {
        let mut backends = Vec::with_capacity(specs.len());
        for (i, spec) in specs.iter().enumerate() {
            let backend = compile_backend(spec, prefix).at(format_args!("backendRefs[{i}]"))?;
            backends.push(Arc::new(backend));
        }
        let total = backends.iter().map(|backend| u64::from(backend.weight)).sum();
        Ok(Self {
            backends: backends.into(),
            total,
        })
    }

    /// All backends, in the order in which they were written.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// The backend for this request, from a number that is uniform over its whole range. `None` is status 500
    /// (`UNAVAILABLE` for gRPC): there are no backends, none has a weight, or the share is that of an invalid one.
    pub fn pick(&self, random: u32) -> Option<&Arc<Backend>> {
        // Below the total, and as uniform as 32 bits allow.
        let mut point = (u64::from(random) * self.total) >> 32;
        let backend = self.backends.iter().find(|backend| {
            let weight = u64::from(backend.weight);
            let found = point < weight;
            point = point.saturating_sub(weight);
            found
        })?;
        backend.valid.then_some(backend)
    }
}

fn compile_backend(spec: &BackendSpec, prefix: Option<&str>) -> FieldResult<Backend> {
    if spec.weight > MAX_WEIGHT {
        return Err(Reason::Weight(spec.weight)).at("weight");
    }
    if spec.valid && spec.port == 0 {
        return Err(Reason::Port).at("port");
    }
    Ok(Backend {
        id: spec.id.as_str().into(),
        port: spec.port,
        filters: Filters::compile(&spec.filters, prefix).at("filters")?,
        weight: spec.weight,
        valid: spec.valid,
    })
}

#[cfg(test)]
mod tests;
