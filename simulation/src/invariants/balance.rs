//! Both sides count the same: the mean of the workers' states equals the server's vector (SCAFFOLD:
//! `mean c_i = c`; FedDyn: `mean h_i = H`). An update counted on one side only is a bias for ever.

use algorithms::Vector;
use worker::client_state::Durable;

/// Largest gap of an element. The states are sums of `f32`.
const TOLERANCE: f64 = 1e-4;

/// The state that a worker will have once it hears which of its rounds was counted last.
pub fn settled(durable: &Durable, committed: Option<u64>) -> Durable {
    let mut durable = durable.clone();
    if let Some(round) = durable.pending.as_ref().map(|pending| pending.round) {
        durable.closed(round, Some(round) == committed);
    }
    durable
}

/// `states` are the settled states of all members of the run, with the last round that counted each;
/// `name` is that of the vector on both sides.
///
/// # Errors
/// If a state misses its last counted round, or the mean is not the server's vector to 1e-4.
pub fn balance(name: &str, server: &Vector, states: &[(Durable, Option<u64>)]) -> Result<(), String> {
    if let Some((durable, committed)) = states.iter().find(|(durable, committed)| durable.round != *committed)
    {
        return Err(format!("a state contains {:?}, the coordinator counted {committed:?}", durable.round));
    }
    for (k, server) in server.iter().enumerate() {
        let own = |(durable, _): &(Durable, Option<u64>)| {
            durable.state.get(name).map_or(0.0, |own| f64::from(own[k]))
        };
        let mean = states.iter().map(own).sum::<f64>() / states.len().max(1) as f64;
        let gap = (mean - f64::from(*server)).abs();
        if gap.is_nan() || gap > TOLERANCE {
            return Err(format!(
                "`{name}`[{k}]: the mean over {} workers is {mean}, the server has {server}",
                states.len()
            ));
        }
    }
    Ok(())
}
