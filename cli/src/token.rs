//! `starling token create`: lets one machine, or one person, join.

use crate::{
    client::{Operator, Remote},
    exit::Failure,
    life, output, table,
};
use clap::Subcommand;
use identity::Role;
use proto::{limits, names::WorkerName, v1};
use serde_json::json;

/// Makes one-time join tokens.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Prints a token that lets one machine enrol, once; JSON: an object with token, id, expires
    Create {
        /// worker, operator or observer
        #[arg(long, default_value = "worker")]
        role: Role,
        /// The holder's name; without it, it chooses one
        #[arg(long)]
        name: Option<WorkerName>,
        /// How long the token can be used, such as 90s, 30m, 12h or 7d
        #[arg(long, default_value = "1h", value_name = "TIME", value_parser = seconds)]
        valid: u64,
        #[command(flatten)]
        remote: Remote,
    },
}

/// Seconds in a text such as `12h`.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}`: expected a time such as 90s, 30m, 12h or 7d");
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 24 * 3600)];
    let parsed = units.into_iter().find_map(|(unit, scale)| {
        let number = text.strip_suffix(unit)?.parse::<u64>().ok()?;
        number.checked_mul(scale)
    });
    let seconds = parsed.ok_or_else(wrong)?;
    if (1..=limits::TOKEN_MAX_S).contains(&seconds) {
        return Ok(seconds);
    }
    Err(format!("`{text}`: expected at most {} days", limits::TOKEN_MAX_S / (24 * 3600)))
}

/// The wire's role.
pub(crate) fn wire(role: Role) -> Result<v1::Role, Failure> {
    match role {
        Role::Worker => Ok(v1::Role::Worker),
        Role::Operator => Ok(v1::Role::Operator),
        Role::Observer => Ok(v1::Role::Observer),
        Role::Coordinator | Role::Peer => Err(Failure::usage(
            "a coordinator needs no token: it has the authority's file; expected worker, operator or observer",
        )),
    }
}

/// Does what was asked.
pub(crate) fn main(args: Args) -> Result<(), Failure> {
    let What::Create { role, name, valid, remote } = args.what;
    life::runtime()?.block_on(async {
        let name = name.map(String::from).unwrap_or_default();
        let request = v1::CreateTokenRequest { role: wire(role)?.into(), name, valid_s: valid };
        let made = Operator::connect(&remote.target).await?.create_token(request).await?;
        if remote.json {
            return output::line(json!({ "token": made.token, "id": made.id, "expires": made.expires }));
        }
        // The token alone on stdout, so that it can be piped; it is shown this once.
        output::note(format!("valid until {}, for one {role}", table::instant(made.expires)));
        output::line(made.token)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(["90s", "30m", "12h", "7d"].map(|t| seconds(t).unwrap()), [90, 1_800, 43_200, 604_800]);
        for wrong in ["", "5", "h", "-1h", "0s", "31d", "99999999999999999d", "1h30m"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
