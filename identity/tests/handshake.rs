//! Who is let in: both ends over a pipe, with every certificate that somebody could come with.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

use identity::{
    Authority, Bundle, Current, Fingerprint, Identity, Role, SigningRequest, Validity, client, enrolling,
    server,
};
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const YEAR: u64 = 365 * 24 * 3600;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn authority() -> Authority {
    Authority::create("test", Validity::lasting(now(), YEAR)).unwrap()
}

fn issue(authority: &Authority, role: Role, name: &str, validity: Validity) -> Bundle {
    let hosts = ["coordinator.test".to_owned(), "127.0.0.1".to_owned()];
    let hosts = if role == Role::Coordinator { &hosts[..] } else { &[] };
    Bundle::issue(authority, role, name, (hosts, validity)).unwrap()
}

fn serving(authority: &Authority) -> Arc<ServerConfig> {
    let bundle = issue(authority, Role::Coordinator, "c", Validity::lasting(now(), YEAR));
    server(Current::new(&bundle).unwrap(), authority.certificate()).unwrap()
}

fn asking(root: &Authority, bundle: &Bundle) -> Arc<ClientConfig> {
    client(Current::new(bundle).unwrap(), root.certificate()).unwrap()
}

/// Who the server saw, or what either side complained of.
async fn shake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    host: &str,
) -> Result<Option<Identity>, String> {
    let (a, b) = duplex(64 * 1024);
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let serve = async {
        let mut stream = TlsAcceptor::from(server).accept(a).await.map_err(|e| format!("server: {e}"))?;
        stream.write_all(b"x").await.map_err(|e| e.to_string())?;
        stream.flush().await.map_err(|e| e.to_string())?;
        let seen = stream.get_ref().1.peer_certificates().map(|chain| Identity::of(&chain[0]).unwrap());
        Ok::<_, String>(seen)
    };
    let ask = async {
        let mut stream =
            TlsConnector::from(client).connect(name, b).await.map_err(|e| format!("client: {e}"))?;
        // With TLS 1.3 a client hears only here that its certificate was refused.
        stream.read_u8().await.map_err(|e| format!("client: {e}"))
    };
    let (seen, heard) = tokio::join!(serve, ask);
    match (seen, heard) {
        (Ok(seen), Ok(_)) => Ok(seen),
        (Err(a), Err(b)) => Err(format!("{a}; {b}")),
        (Err(a), _) | (_, Err(a)) => Err(a),
    }
}

#[tokio::test]
async fn a_holder_is_known_by_role_and_name() {
    let root = authority();
    let worker = issue(&root, Role::Worker, "hospital-3", Validity::lasting(now(), 60));
    for host in ["coordinator.test", "127.0.0.1"] {
        let seen = shake(serving(&root), asking(&root, &worker), host).await.unwrap().unwrap();
        assert_eq!((seen.role, seen.name.as_str()), (Role::Worker, "hospital-3"));
        assert_eq!(seen, *worker.identity());
        assert!(seen.not_after <= now() + 60);
    }
}

#[tokio::test]
async fn strangers_are_told_apart() {
    let (root, other) = (authority(), authority());
    let long = Validity::lasting(now(), YEAR);
    let foreign = issue(&other, Role::Operator, "mallory", long);
    let error = shake(serving(&root), asking(&root, &foreign), "coordinator.test").await.unwrap_err();
    assert!(error.contains("UnknownIssuer") || error.contains("BadSignature"), "{error}");

    let past = Validity { from: now() - 100, until: now() - 10 };
    let expired = issue(&root, Role::Worker, "late", past);
    let error = shake(serving(&root), asking(&root, &expired), "coordinator.test").await.unwrap_err();
    assert!(error.contains("Expired") && error.contains("client: "), "{error}");

    // A coordinator's certificate is no client's, and a worker's no server's.
    let impostor = issue(&root, Role::Coordinator, "c", long);
    let error = shake(serving(&root), asking(&root, &impostor), "coordinator.test").await.unwrap_err();
    assert!(error.contains("extended key usage"), "{error}");
    let worker = issue(&root, Role::Worker, "w", long);
    let posing = server(Current::new(&worker).unwrap(), root.certificate()).unwrap();
    shake(posing, asking(&root, &worker), "coordinator.test").await.unwrap_err();

    // A server of another authority, and one of another name.
    let error = shake(serving(&other), asking(&root, &worker), "coordinator.test").await.unwrap_err();
    assert!(error.contains("UnknownIssuer") || error.contains("BadSignature"), "{error}");
    let error = shake(serving(&root), asking(&root, &worker), "elsewhere.test").await.unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn a_newcomer_checks_the_authority_by_its_fingerprint() {
    let (root, other) = (authority(), authority());
    let pinned = enrolling(root.fingerprint()).unwrap();
    let seen = shake(serving(&root), Arc::clone(&pinned), "coordinator.test").await.unwrap();
    assert_eq!(seen, None, "it has no certificate yet");
    shake(serving(&other), Arc::clone(&pinned), "coordinator.test").await.unwrap_err();
    shake(serving(&root), pinned, "elsewhere.test").await.unwrap_err();
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let root = authority();
    let old = issue(&root, Role::Worker, "w", Validity { from: now() - 100, until: now() - 1 });
    let current = Current::new(&old).unwrap();
    let config = client(Arc::clone(&current), root.certificate()).unwrap();
    shake(serving(&root), Arc::clone(&config), "coordinator.test").await.unwrap_err();
    let new = issue(&root, Role::Worker, "w", Validity::lasting(now(), 60));
    current.replace(&new).unwrap();
    let seen = shake(serving(&root), config, "coordinator.test").await.unwrap();
    assert_eq!(seen.as_ref(), Some(new.identity()));
}

#[test]
fn a_key_stays_where_it_was_made() {
    let root = authority();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deeper/identity.pem");
    assert!(Bundle::load(&file).unwrap().is_none());
    let asked = SigningRequest::open(&file).unwrap().der().unwrap();
    // The process dies here; the next one asks with the same key.
    let request = SigningRequest::open(&file).unwrap();
    let key = identity::request_key(&asked).unwrap();
    assert_eq!(identity::request_key(&request.der().unwrap()).unwrap(), key);
    let validity = Validity::lasting(now(), 60);
    let answer = root.sign(&request.der().unwrap(), Role::Worker, "w", validity).unwrap();
    let authority = root.certificate().to_vec();
    let bundle = request.complete(answer.to_vec(), authority.clone(), root.fingerprint()).unwrap();
    assert_eq!(Bundle::load(&file).unwrap().unwrap().identity(), bundle.identity());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing is left over");

    let next = SigningRequest::open(&file).unwrap();
    let error = next.complete(answer.to_vec(), authority, root.fingerprint()).unwrap_err().to_string();
    assert!(error.contains("does not belong"), "{error}");
    let next = SigningRequest::open(&file).unwrap();
    let signed = root.sign(&next.der().unwrap(), Role::Worker, "w", validity).unwrap();
    let trusted = Fingerprint::of(b"another");
    let error = next.complete(signed.to_vec(), root.certificate().to_vec(), trusted).unwrap_err();
    assert!(error.to_string().contains("from authority"), "{error}");
    assert!(root.sign(b"garbage", Role::Worker, "w", validity).is_err());
    let mut forged = asked;
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(root.sign(&forged, Role::Worker, "w", validity).is_err(), "signed by another key");
}

#[test]
fn files_of_keys_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authority.pem");
    let root = authority();
    root.save(&file).unwrap();
    assert!(root.save(&file).unwrap_err().to_string().contains("authority.pem"), "never replaced");
    assert_eq!(Authority::load(&file).unwrap().fingerprint(), root.fingerprint());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Authority::load(&file).unwrap_err().to_string();
    assert!(error.contains("644") && error.contains("chmod 600"), "{error}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let good = fs::read_to_string(&file).unwrap();
    let other = folder.path().join("other.pem");
    authority().save(&other).unwrap();
    let stranger = fs::read_to_string(&other).unwrap();
    let (_, certificate) = stranger.split_once(concat!("-----END PRIVATE", " KEY-----\n")).unwrap();
    let (key, _) = good.split_once("-----BEGIN CERTIFICATE-----").unwrap();
    for (bad, want) in [
        (String::new(), "no private key"),
        ("garbage".into(), "no private key"),
        (key.to_owned(), "0 certificates"),
        (format!("{key}{certificate}"), "does not belong"),
        (good.replace("MI", "!!"), "authority.pem"),
    ] {
        fs::write(&file, bad).unwrap();
        let error = Authority::load(&file).unwrap_err().to_string();
        assert!(error.contains(want) && error.contains("authority.pem"), "{error}");
    }
    fs::write(&file, good).unwrap();
    assert!(Bundle::load(&file).unwrap_err().to_string().contains("1 certificates"));
}

#[test]
fn an_authority_does_not_vouch_beyond_its_end() {
    let root = Authority::create("short", Validity::lasting(now(), 30)).unwrap();
    let long = issue(&root, Role::Worker, "w", Validity::lasting(now(), YEAR));
    assert!(long.identity().not_after <= now() + 30);
    let late = Validity::lasting(now() + 31, 10);
    let error = Bundle::issue(&root, Role::Worker, "w", (&[], late)).unwrap_err().to_string();
    assert!(error.contains("starling ca init"), "{error}");
    let wrong = ["not a host".to_owned()];
    let error = Bundle::issue(&root, Role::Coordinator, "c", (&wrong, Validity::lasting(now(), 9)));
    assert!(error.unwrap_err().to_string().contains("not a host"));
}
