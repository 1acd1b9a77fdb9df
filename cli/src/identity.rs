//! `starling identity …`: who has a certificate, ending one, and getting one for a person.

use crate::{
    client::{Operator, Remote},
    exit::{Code, Failure},
    life, output, table, token,
};
use ::identity::{Bundle, Role, Tcp, Token};
use clap::Subcommand;
use proto::{names::WorkerName, v1};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Lists and revokes certificates, or gets one with a token.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Everybody who got a certificate from the coordinator, and unused tokens; JSON: one object a line,
    /// with role, name, serial, not_after, revoked, connections, or token, role, name, expires, creator
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Ends all certificates of a holder and its connections, now; JSON: the holder as in `list`
    Revoke {
        /// worker, operator or observer
        role: Role,
        /// Its name
        name: WorkerName,
        #[command(flatten)]
        remote: Remote,
    },
    /// Gets a certificate with a token, for a person or a program that asks (workers enrol by
    /// themselves); JSON: an object with role, name, not_after, file
    Enrol {
        /// The join token; better given as STARLING__TOKEN
        #[arg(long, env = "STARLING__TOKEN", hide_env_values = true)]
        token: Token,
        /// The name to have, if the token does not say
        #[arg(long)]
        name: Option<WorkerName>,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// The coordinator
        #[arg(long, value_name = "URL", env = "STARLING_COORDINATOR", default_value = crate::client::DEFAULT_URL)]
        coordinator: String,
        /// Prints JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// What a file of a key and a certificate says; JSON: an object with role, name, serial, issued,
    /// not_after
    Show {
        /// The file
        file: PathBuf,
        /// Prints JSON instead of text
        #[arg(long)]
        json: bool,
    },
}

/// Does what was asked.
pub(crate) fn main(args: Args) -> Result<(), Failure> {
    match args.what {
        What::Show { file, json } => show(&file, json),
        What::List { remote } => life::runtime()?.block_on(list(&remote)),
        What::Revoke { role, name, remote } => life::runtime()?.block_on(async {
            let request = v1::RevokeIdentityRequest { role: token::wire(role)?.into(), name: name.into() };
            let ended = Operator::connect(&remote.target).await?.revoke(request).await?;
            if remote.json {
                return output::line(holder_json(&ended));
            }
            let cut = ended.connections;
            output::line(format!("{role} {} is revoked; {cut} connections were ended", ended.name))
        }),
        What::Enrol { token, name, to, coordinator, json } => {
            life::runtime()?.block_on(enrol(&token, name, (&to, &coordinator), json))
        }
    }
}

async fn enrol(
    token: &Token,
    name: Option<WorkerName>,
    (to, coordinator): (&PathBuf, &str),
    json: bool,
) -> Result<(), Failure> {
    output::refuse_existing(to, false)?;
    let name = name.map(String::from).unwrap_or_default();
    let got = worker::access::enrol(coordinator, Arc::new(Tcp), (token, &name), to).await;
    let bundle = got.map_err(|status| crate::client::failure(coordinator, &status))?;
    let holder = bundle.identity();
    if json {
        return output::line(json!({
            "role": holder.role, "name": holder.name, "not_after": holder.not_after, "file": to,
        }));
    }
    let until = table::instant(holder.not_after);
    output::line(format!("enrolled as {holder} until {until}; use --identity {}", to.display()))
}

fn show(file: &Path, json: bool) -> Result<(), Failure> {
    let bundle = Bundle::load(file).map_err(Failure::usage)?;
    let none = || Failure::new(Code::NotFound, format!("{}: no such file", file.display()));
    let bundle = bundle.ok_or_else(none)?;
    let holder = bundle.identity();
    if json {
        return output::line(json!({
            "role": holder.role, "name": holder.name, "serial": holder.serial, "issued": holder.issued,
            "not_after": holder.not_after,
        }));
    }
    output::line(table::pairs(&[
        ("role", holder.role.to_string()),
        ("name", holder.name.clone()),
        ("serial", holder.serial.to_string()),
        ("issued", table::instant(holder.issued)),
        ("valid until", table::instant(holder.not_after)),
    ]))
}

async fn list(remote: &Remote) -> Result<(), Failure> {
    let all = Operator::connect(&remote.target).await?.identities().await?;
    if remote.json {
        all.identities.iter().try_for_each(|holder| output::line(holder_json(holder)))?;
        return all.tokens.iter().try_for_each(|token| output::line(token_json(token)));
    }
    let mut rows: Vec<Vec<String>> = all.identities.iter().map(holder_row).collect();
    rows.extend(all.tokens.iter().map(token_row));
    if rows.is_empty() {
        return output::line("nobody has enrolled yet; `starling token create` lets somebody join");
    }
    output::line(table::table(&["role", "name", "state", "until", "connections", "serial"], &rows))
}

fn role(role: v1::Role) -> &'static str {
    match role {
        v1::Role::Worker => "worker",
        v1::Role::Operator => "operator",
        v1::Role::Observer => "observer",
        v1::Role::Unspecified => "unknown",
    }
}

fn holder_json(holder: &v1::IdentitySummary) -> Value {
    json!({
        "role": role(holder.role()), "name": holder.name, "serial": holder.serial,
        "not_after": holder.not_after, "revoked": holder.revoked, "connections": holder.connections,
    })
}

fn token_json(token: &v1::TokenSummary) -> Value {
    json!({
        "token": token.id, "role": role(token.role()), "name": token.name, "expires": token.expires,
        "creator": token.creator,
    })
}

fn holder_row(holder: &v1::IdentitySummary) -> Vec<String> {
    let state = match holder.revoked {
        0 => "enrolled".to_owned(),
        at => format!("revoked {}", table::instant(at)),
    };
    vec![
        role(holder.role()).into(),
        holder.name.clone(),
        state,
        table::instant(holder.not_after),
        holder.connections.to_string(),
        holder.serial.clone(),
    ]
}

fn token_row(token: &v1::TokenSummary) -> Vec<String> {
    let name = if token.name.is_empty() { "(any)".to_owned() } else { token.name.clone() };
    let state = format!("token {} by {}", token.id, token.creator);
    vec![role(token.role()).into(), name, state, table::instant(token.expires), "–".into(), "–".into()]
}
