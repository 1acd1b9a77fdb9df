//! Where a simulation's noise and secret draws come from: the operating system, once; kept beside the store
//! while the simulation is not finished, so that one that was interrupted goes on with the same bits.

use super::{Setup, SimulationError};
use algorithms::seed;
use coordinator::private::Secret;
use privacy::sampler::Key;
use rand_chacha::rand_core::Rng;
use std::{fs, path::Path};

/// The secret's file name in the folder of what is in the making.
const FILE: &str = "secret";
/// Streams of a round: the server's, and one for each client.
const SERVER: u32 = 0;
const CLIENTS: u32 = 1;

/// The secret of a simulation.
#[derive(Debug, Clone)]
pub(super) struct Secrets(Key);

impl Secrets {
    /// That of a simulation which goes on, or a fresh one.
    pub(super) fn open(setup: &Setup, folder: &Path, goes_on: bool) -> Result<Self, SimulationError> {
        if setup.reproducible_noise {
            return Ok(Self::of_seed(setup.spec.seed));
        }
        let path = folder.join(FILE);
        let fail = |error: std::io::Error| SimulationError::file(&path, error);
        let mut bits = [0; 32];
        if goes_on {
            let known = fs::read(&path).map_err(fail)?;
            bits = known.try_into().map_err(|_| fail(std::io::ErrorKind::InvalidData.into()))?;
        } else {
            getrandom::fill(&mut bits).map_err(|error| {
                SimulationError::Failed(format!("the operating system gives no randomness: {error}"))
            })?;
            fs::write(&path, bits).map_err(fail)?;
        }
        Ok(Self(Key::new(bits)))
    }

    fn of_seed(from: u64) -> Self {
        let mut bits = [0; 32];
        for (part, chunk) in (0_u64..).zip(bits.chunks_mut(8)) {
            chunk.copy_from_slice(&seed::derive(from, "simulated secret", &[part]).to_le_bytes());
        }
        Self(Key::new(bits))
    }

    /// Where noise that is correlated over rounds comes from.
    pub(super) fn stream(&self) -> Secret {
        Secret::new(self.bits(u64::MAX, SERVER, 0))
    }

    /// The server's secret of a round.
    pub(super) fn round(&self, round: u64) -> Secret {
        Secret::new(self.bits(round, SERVER, 0))
    }

    /// A client's secret of a round.
    pub(super) fn client(&self, client: usize, round: u64) -> Key {
        Key::new(self.bits(round, CLIENTS, client as u32))
    }

    fn bits(&self, round: u64, kind: u32, of: u32) -> [u8; 32] {
        let mut bits = [0; 32];
        self.0.release(round).stream(kind, of).fill_bytes(&mut bits);
        bits
    }
}
