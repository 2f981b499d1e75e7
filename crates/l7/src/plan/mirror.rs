//! Copies of requests (`HTTPRequestMirrorFilter`).

use crate::error::{At, FieldResult};
use crate::{Fraction, MirrorSpec, Reason};

/// A compiled `RequestMirror`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The caller's identifier of the backend.
    pub id: Box<str>,
    /// Its port.
    pub port: u16,
    fraction: Fraction,
}

impl Mirror {
    pub(crate) fn compile(spec: &MirrorSpec) -> FieldResult<Self> {
        let Fraction {
            numerator,
            denominator,
        } = spec.fraction;
        if denominator == 0 || numerator > denominator {
            return Err(Reason::Fraction(numerator, denominator)).at("fraction");
        }
        if spec.port == 0 {
            return Err(Reason::Port).at("port");
        }
        Ok(Self {
            id: spec.id.as_str().into(),
            port: spec.port,
            fraction: spec.fraction,
        })
    }

    /// Whether this request is mirrored, from a number that is uniform over its whole range.
    pub fn applies(&self, random: u32) -> bool {
        let Fraction {
            numerator,
            denominator,
        } = self.fraction;
        (u64::from(random) * u64::from(denominator)) >> 32 < u64::from(numerator)
    }
}
