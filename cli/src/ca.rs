//! `starling ca`: the federation's certificate authority, its first operator, and peers' certificates.

mod revoke;

use crate::{
    exit::{Code, Failure},
    life, output, table,
};
use clap::Subcommand;
use identity::{Authority, Bundle, Role, Validity};
use proto::names::WorkerName;
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

const DAY_S: u64 = 24 * 3600;

/// Makes the certificate authority of a federation.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Writes authority.pem (for the coordinator alone), ca.pem (public) and operator.pem (the first
    /// operator's identity); JSON: an object with authority, certificate, operator, fingerprint, until
    Init(Init),
    /// Writes the key and certificate of a peer of decentralised runs, who needs no coordinator to enrol at;
    /// JSON: an object with name, identity, until
    Peer(HolderArgs),
    /// Writes the key and certificate of an observer, who may look at peers and at coordinators, and change
    /// nothing; JSON: as for `peer`
    Observer(HolderArgs),
    /// Refuses a peer's certificates from now on: writes revoked.txt beside the authority, signed, and tells
    /// peers; JSON: an object with list, number, told
    Revoke(revoke::RevokeArgs),
}

#[derive(Debug, clap::Args)]
struct HolderArgs {
    /// The folder with authority.pem
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Its name; a peer's is unique in its runs
    #[arg(long)]
    name: WorkerName,
    /// The file to write: the `identity` of a peer, --identity of an observer
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Life of the certificate in days
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Init {
    /// Where to write; existing files are never replaced
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Name of the federation, as certificates show it
    #[arg(long, default_value = "starling")]
    name: String,
    /// Name of the first operator
    #[arg(long, default_value = "admin")]
    operator: WorkerName,
    /// Life of the authority in days: when it ends, everybody must enrol anew
    #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// Life of the first operator's certificate in days
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    operator_days: u32,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// What was written.
#[derive(Debug)]
pub(crate) struct Made {
    /// For the coordinator alone.
    pub(crate) authority: PathBuf,
    /// Public.
    pub(crate) certificate: PathBuf,
    /// The first operator's.
    pub(crate) operator: PathBuf,
    fingerprint: String,
    until: u64,
}

/// Does what was asked.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    let init = match &args.what {
        What::Init(init) => init,
        What::Peer(args) => return holder_main(Role::Peer, args),
        What::Observer(args) => return holder_main(Role::Observer, args),
        What::Revoke(args) => return life::runtime()?.block_on(revoke::main(args)),
    };
    let lives = (u64::from(init.days) * DAY_S, u64::from(init.operator_days) * DAY_S);
    let made = make(&init.dir, &init.name, init.operator.as_str(), lives)?;
    if init.json {
        return output::line(json!({
            "authority": made.authority, "certificate": made.certificate, "operator": made.operator,
            "fingerprint": made.fingerprint, "until": made.until,
        }));
    }
    let show = |path: &Path| path.display().to_string();
    output::line(table::pairs(&[
        ("authority", format!("{}  (secret; for the coordinator: [tls] authority)", show(&made.authority))),
        ("certificate", format!("{}  (public)", show(&made.certificate))),
        ("operator", format!("{}  (secret; for --identity or STARLING_IDENTITY)", show(&made.operator))),
        ("fingerprint", made.fingerprint),
        ("valid until", table::instant(made.until)),
    ]))
}

fn holder_main(role: Role, args: &HolderArgs) -> Result<(), Failure> {
    let whom = (role, args.name.as_str(), u64::from(args.days) * DAY_S);
    let until = holder(&args.dir.join("authority.pem"), whom, &args.to)?;
    if args.json {
        return output::line(json!({ "name": args.name, "identity": args.to, "until": until }));
    }
    output::line(table::pairs(&[
        ("identity", format!("{}  (secret; for {role} `{}`)", args.to.display(), args.name)),
        ("valid until", table::instant(until)),
    ]))
}

/// Writes a peer's key and certificate, and says until when it is valid.
pub(crate) fn peer(authority: &Path, (name, life_s): (&str, u64), to: &Path) -> Result<u64, Failure> {
    holder(authority, (Role::Peer, name, life_s), to)
}

fn holder(authority: &Path, (role, name, life_s): (Role, &str, u64), to: &Path) -> Result<u64, Failure> {
    output::refuse_existing(to, false)?;
    let authority = Authority::load(authority).map_err(|error| Failure::new(Code::NotFound, error))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let validity = Validity::lasting(now, life_s);
    let bundle = Bundle::issue(&authority, role, name, (&[], validity)).map_err(Failure::internal)?;
    bundle.save(to).map_err(|error| Failure::new(Code::Create, error))?;
    Ok(bundle.identity().not_after)
}

/// Writes authority, public certificate and first operator into a folder.
pub(crate) fn make(
    dir: &Path,
    name: &str,
    operator: &str,
    (life_s, operator_s): (u64, u64),
) -> Result<Made, Failure> {
    let cannot = |error: &dyn std::fmt::Display| Failure::new(Code::Create, error);
    fs::create_dir_all(dir).map_err(|error| cannot(&format!("{}: {error}", dir.display())))?;
    let path = |name: &str| dir.join(name);
    for file in ["authority.pem", "ca.pem", "operator.pem"] {
        output::refuse_existing(&path(file), false)?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let failed = |error: identity::AuthorityError| Failure::internal(error);
    let authority = Authority::create(name, Validity::lasting(now, life_s)).map_err(failed)?;
    let validity = Validity::lasting(now, operator_s);
    let first = Bundle::issue(&authority, Role::Operator, operator, (&[], validity)).map_err(failed)?;
    authority.save(&path("authority.pem")).map_err(|error| cannot(&error))?;
    output::write_file(&path("ca.pem"), false, &[authority.certificate_pem().as_bytes()])?;
    first.save(&path("operator.pem")).map_err(|error| cannot(&error))?;
    Ok(Made {
        authority: path("authority.pem"),
        certificate: path("ca.pem"),
        operator: path("operator.pem"),
        fingerprint: authority.fingerprint().to_string(),
        until: authority.until(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let made = make(folder.path(), "test", "anna", (1_000, 500)).unwrap();
        let authority = Authority::load(&made.authority).unwrap();
        let operator = Bundle::load(&made.operator).unwrap().unwrap();
        assert_eq!(operator.identity().to_string(), "operator `anna`");
        assert_eq!(operator.authority(), authority.certificate());
        let public = fs::read_to_string(&made.certificate).unwrap();
        assert!(public.contains("CERTIFICATE") && !public.contains("PRIVATE"));
        let again = make(folder.path(), "test", "anna", (1_000, 500)).unwrap_err();
        assert_eq!(again.code, Code::Create);
        assert!(again.message.contains("authority.pem"), "{again}");
        assert_eq!(Authority::load(&made.authority).unwrap().fingerprint(), authority.fingerprint());
        let to = folder.path().join("p.pem");
        peer(&made.authority, ("peer-1", 100), &to).unwrap();
        assert_eq!(Bundle::load(&to).unwrap().unwrap().identity().to_string(), "peer `peer-1`");
        assert_eq!(peer(&made.authority, ("peer-1", 100), &to).unwrap_err().code, Code::Create);
        let to = folder.path().join("o.pem");
        holder(&made.authority, (Role::Observer, "olga", 100), &to).unwrap();
        assert_eq!(Bundle::load(&to).unwrap().unwrap().identity().to_string(), "observer `olga`");
    }
}
