//! `starling ca revoke`: a peer's certificate is refused from now on, before it ends.

use crate::{
    exit::{Code, Failure},
    output,
    peer::ask::{Asked, Who},
    table,
};
use identity::{Authority, Revocations, Role};
use proto::names::WorkerName;
use serde_json::json;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

#[derive(Debug, clap::Args)]
pub(super) struct RevokeArgs {
    /// The folder with authority.pem, and with revoked.txt once there is one
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The peer whose certificates, as far as issued, are refused
    #[arg(long)]
    name: WorkerName,
    /// A peer to tell, as HOST:PORT, which passes it on; may be repeated
    #[arg(long, value_name = "ADDR")]
    tell: Vec<String>,
    /// Your key and certificate, for telling [default: operator.pem in the folder]
    #[arg(long, value_name = "FILE", env = "STARLING_IDENTITY")]
    identity: Option<PathBuf>,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Writes the list, and tells peers.
pub(super) async fn main(args: &RevokeArgs) -> Result<(), Failure> {
    let file = args.dir.join("revoked.txt");
    let list = revoke(&args.dir.join("authority.pem"), args.name.as_str(), &file)?;
    let identity = args.identity.clone().unwrap_or_else(|| args.dir.join("operator.pem"));
    for peer in &args.tell {
        let who = Who { peer: peer.clone(), identity: identity.clone() };
        Asked::new(&who)?.revoke(peer, list.text()).await?;
    }
    if args.json {
        return output::line(json!({ "list": file, "number": list.number(), "told": args.tell }));
    }
    let told = if args.tell.is_empty() {
        "nobody; use --tell HOST:PORT, or give peers the list as their `revoked`".to_owned()
    } else {
        args.tell.join(", ")
    };
    output::line(table::pairs(&[
        ("list", format!("{}  (public; number {})", file.display(), list.number())),
        ("told", told),
    ]))
}

/// Puts a peer on the list in `file`, which is made if there is none.
fn revoke(authority: &Path, name: &str, file: &Path) -> Result<Revocations, Failure> {
    let authority = Authority::load(authority).map_err(|error| Failure::new(Code::NotFound, error))?;
    let shown = |why: &dyn std::fmt::Display| format!("{}: {why}", file.display());
    let known = match fs::read_to_string(file) {
        Ok(text) => Revocations::read(&text, authority.certificate())
            .map_err(|why| Failure::new(Code::Data, shown(&why)))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Revocations::default(),
        Err(error) => return Err(Failure::new(Code::NotFound, shown(&error))),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let list = authority.revoke(&known, (Role::Peer, name), now).map_err(Failure::internal)?;
    output::write_file(file, true, &[list.text().as_bytes()])?;
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::make;

    #[test]
    fn a_list_grows_and_a_foreign_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let made = make(folder.path(), "test", "anna", (1_000, 500)).unwrap();
        let file = folder.path().join("revoked.txt");
        assert_eq!(revoke(&made.authority, "p1", &file).unwrap().number(), 1);
        let list = revoke(&made.authority, "p2", &file).unwrap();
        assert_eq!(list.names(Role::Peer).collect::<Vec<_>>(), ["p1", "p2"]);
        assert_eq!(fs::read_to_string(&file).unwrap(), list.text());
        let other = make(&folder.path().join("other"), "test", "anna", (1_000, 500)).unwrap();
        let refused = revoke(&other.authority, "p3", &file).unwrap_err();
        assert!(refused.message.contains("not signed by"), "{refused}");
    }
}
