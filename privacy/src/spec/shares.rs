//! The part of a section that is about noise shares of clients.

use std::num::NonZeroU64;

use super::{MechanismKind, PrivacySpec, RunFacts, SpecError, wrong};
use crate::{
    Adjacency, NoiseMultiplier, Sampling,
    shares::{Law, ModulusBits, Shares, Wanted},
};

impl MechanismKind {
    /// The law of the clients' shares, if they add the noise together.
    pub fn law(self) -> Option<Law> {
        match self {
            Self::Skellam => Some(Law::Skellam),
            Self::DistributedDiscreteGaussian => Some(Law::DiscreteGaussian),
            _ => None,
        }
    }
}

impl PrivacySpec {
    pub(super) fn check_shares(&self) -> Result<(), SpecError> {
        let shares = self.mechanism.law().is_some();
        if shares != self.least_shares.is_some() {
            return wrong(
                "least_shares",
                "the number of honest noise shares that must arrive; for `skellam` and `distributed_discrete_gaussian`, and only there",
            );
        }
        if !shares {
            return match self.modulus_bits {
                Some(_) => wrong("modulus_bits", "only noise shares are added up in a ring: leave it out"),
                None => Ok(()),
            };
        }
        if !self.clipping.is_flat() {
            return wrong("clipping", "shares are rotated, which mixes the layers: `clipping = \"flat\"`");
        }
        if self.participation.is_some() {
            return wrong("participation", "a cap is covered for Gaussian noise only");
        }
        if self.adjacency == Adjacency::AddRemove {
            return wrong("adjacency", "who is not there adds no noise either: `zero_out` or `replace_one`");
        }
        if self.sampling != Sampling::Everyone {
            return wrong(
                "sampling",
                "a round with too few shares is not released, which would tell of a secret draw: `{ kind = \"everyone\" }`",
            );
        }
        Ok(())
    }

    /// The number of noise shares without which a round must not be released.
    pub fn least_shares(&self) -> Option<NonZeroU64> {
        self.least_shares
    }

    /// Grid, ring and noise of the clients' shares, if they add the noise together.
    pub(super) fn shares(&self, noise: NoiseMultiplier, facts: RunFacts) -> Option<Shares> {
        let wanted = Wanted {
            law: self.mechanism.law()?,
            clip_norm: self.clip_norm,
            parameters: facts.parameters,
            least: self.least_shares?,
            most: facts.clients,
            modulus_bits: self.modulus_bits.unwrap_or_default(),
        };
        Some(Shares::plan(wanted, noise))
    }

    /// log2 of the modulus of the clients' shares.
    pub fn modulus_bits(&self) -> ModulusBits {
        self.modulus_bits.unwrap_or_default()
    }
}
