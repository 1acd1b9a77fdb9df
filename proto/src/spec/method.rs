//! What a decentralised algorithm asks of the rest of a run file, beside a graph.

use super::{RunSpec, SpecError, check::require, topology::Weighting};
use algorithms::compress::Compressor;
use gossip::{
    Schedule,
    kernel::RelaySum,
    machine::{Barrier, Method},
    report::Bytes,
    rule::{Chosen, Local},
};

/// Models of so many scalars stand for others where a compressor's size is told for each scalar.
const MANY: usize = 1 << 20;

impl RunSpec {
    /// Refuses what the algorithm cannot do, and reads its compressor.
    pub(super) fn check_method(
        &self,
        chosen: &Chosen,
        schedule: &Schedule,
        barrier: Barrier,
    ) -> Result<Option<Compressor>, SpecError> {
        let name = chosen.row.name;
        let Local { rho, momentum, prox, relax } = chosen.local;
        let method = chosen.rule.method();
        let own_start = matches!(method, Method::Momentum { .. } | Method::Tracking | Method::Relay);
        require(!(own_start && relax != 0.0), "algorithm.relax", || {
            format!("`{name}` starts from the model; expected 0")
        })?;
        let plain = rho == 0.0 && momentum == 0.0 && prox == 0.0;
        require(method != Method::Tracking || plain, "algorithm", || {
            format!("`{name}` tracks the gradients of plain steps: `rho`, `momentum` and `prox` must be 0")
        })?;
        require(method != Method::Tracking || self.privacy.is_none(), "privacy", || {
            format!(
                "`{name}` sends gradients, whose sum over the rounds a promise for changes does not cover"
            )
        })?;
        let weighted =
            self.topology.as_ref().is_some_and(|topology| topology.weighting == Weighting::Examples);
        require(!weighted || method != Method::Tracking, "topology.weighting", || {
            format!("`{name}` tracks the mean gradient of the peers, expected \"peers\"")
        })?;
        require(!weighted || self.privacy.is_none(), "topology.weighting", || {
            "peers would tell on how many examples they train, which [privacy] does not cover; expected \"peers\"".into()
        })?;
        if !matches!(method, Method::Compressed { .. } | Method::Relay) {
            return Ok(None);
        }
        require(barrier == Barrier::Synchronous, "topology.barrier", || {
            format!("`{name}` needs rounds in step, expected \"synchronous\"")
        })?;
        let kind = schedule.topology().name();
        require(schedule.period() == Some(1), "topology.kind", || {
            format!(
                "`{kind}` changes from round to round, but `{name}` needs the same neighbours in all of them"
            )
        })?;
        if method == Method::Relay {
            let tree = RelaySum::<f32>::new(schedule.mixing(0).graph(), 0);
            let error = |error| SpecError::new("topology.kind", format!("`{kind}`: {error}"));
            return tree.map(|_| None).map_err(error);
        }
        let keys = chosen.rule.compressor().cloned().unwrap_or_default();
        let wrong = |detail: String| SpecError::new("algorithm.compressor", crate::nearest::explain(&detail));
        let compressor: Compressor =
            serde_json::from_value(keys).map_err(|error| wrong(error.to_string()))?;
        compressor.check().map_err(|error| wrong(error.to_string()))?;
        Ok(Some(compressor))
    }
}

/// Bytes of one message as a line in d; of a compressor, what it makes of a long vector.
pub(super) fn message(method: Method, compressor: Option<Compressor>) -> Bytes {
    let plain = |per_parameter, fixed| Bytes { per_parameter, fixed };
    match (method, compressor) {
        (Method::Tracking, _) => plain(8.0, 0.0),
        (Method::Relay, _) => plain(4.0, 4.0),
        // By the shapes of the model, which are not known here.
        (_, None | Some(Compressor::LowRank { .. })) => plain(4.0, 0.0),
        (_, Some(compressor)) => plain(compressor.size(&[], MANY) as f64 / MANY as f64, 0.0),
    }
}
