//! Good and bad cases of each check, and the way to a real coordinator.

use super::*;
use crate::{ca, host::Host};
use ::coordinator::Tls;
use ::worker::data::Source;
use identity::{Authority, Bundle, Validity};
use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const DAY_S: u64 = 24 * 3600;

fn find<'a>(findings: &'a [Finding], check: &str) -> &'a Finding {
    let named = findings.iter().find(|finding| finding.check == check);
    named.unwrap_or_else(|| panic!("no check `{check}` among {findings:#?}"))
}

/// A check went wrong as expected, in words that help.
fn assert_bad(findings: &[Finding], check: &str, (result, detail, advice): (Verdict, &str, &str)) {
    let finding = find(findings, check);
    assert_eq!(finding.result, result, "{finding:?}");
    assert!(finding.detail.contains(detail) && finding.advice.contains(advice), "{finding:?}");
    assert_eq!(finding.text().lines().count(), 1);
}

/// But for the disk's free space, which is not the test's.
fn assert_all_ok(findings: &[Finding]) {
    for finding in findings.iter().filter(|finding| !finding.check.ends_with("free space")) {
        assert_eq!(finding.result, Verdict::Ok, "{finding:?}");
        assert!(finding.advice.is_empty() && !finding.detail.is_empty(), "{finding:?}");
    }
}

fn write(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

/// An authority and its first operator, with lives in seconds.
fn authority(folder: &TempDir, lives: (u64, u64)) -> (Authority, ca::Made) {
    let made = ca::make(&folder.path().join("ca"), "test", "anna", lives).unwrap();
    (Authority::load(&made.authority).unwrap(), made)
}

fn worker_config(folder: &TempDir, coordinator: &str) -> PathBuf {
    let state = folder.path().join("state");
    let text = format!(
        "name = \"w1\"\ncoordinator = \"{coordinator}\"\nstate_dir = \"{}\"\n[data.d]\nkind = \"digits\"\n\
         train = 20\ntest = 10\n",
        state.display()
    );
    write(folder, "worker.toml", &text)
}

#[test]
fn a_finding_is_one_line_or_one_object() {
    let mut report = Report::new("worker");
    report.fail("clock", "it is\n   wrong", "set it");
    report.ok("data", "fine");
    assert_eq!(report.findings[0].text(), "fail  worker clock: it is wrong → set it");
    assert_eq!(report.findings[1].text(), "ok    worker data: fine");
    let json = serde_json::to_string(&report.findings[0]).unwrap();
    assert_eq!(json, r#"{"check":"worker clock","result":"fail","detail":"it is wrong","advice":"set it"}"#);
}

#[test]
fn a_misspelt_key_is_named_and_the_exit_code_tells() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(&folder, "c.toml", "plaintext = true\ndata_dri = \"x\"\n");
    let findings = coordinator(&file);
    assert_eq!(findings.len(), 1, "nothing else can be said");
    assert_bad(&findings, "coordinator configuration", (Verdict::Fail, "did you mean `data_dir`", "samples"));
    let args = |file: PathBuf| Args {
        coordinator_config: Some(file),
        worker_config: None,
        coordinator: None,
        identity: None,
        json: true,
    };
    let failure = main(&args(file)).unwrap_err();
    assert_eq!((failure.code, failure.message.as_str()), (Code::Failed, "1 of 1 checks failed"));
    let data = folder.path().join("data");
    let text = format!("listen = \"127.0.0.1:0\"\nplaintext = true\ndata_dir = \"{}\"\n", data.display());
    main(&args(write(&folder, "good.toml", &text))).unwrap();
    assert!(!data.exists(), "it changes nothing");
}

#[test]
fn a_coordinator_with_its_authority() {
    let folder = tempfile::tempdir().unwrap();
    let (_, made) = authority(&folder, (100 * DAY_S, DAY_S));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = |listen: &str, authority: &Path, data: &str| {
        let text = format!(
            "listen = \"{listen}\"\ndata_dir = \"{}\"\n[tls]\nauthority = \"{}\"\n[data.x]\n{data}\n",
            folder.path().join("data").display(),
            authority.display()
        );
        coordinator(&write(&folder, "c.toml", &text))
    };
    let digits = "kind = \"digits\"\ntrain = 20\ntest = 10";
    let findings = config("127.0.0.1:0", &made.authority, digits);
    assert_all_ok(&findings);
    assert!(find(&findings, "coordinator authority's life").detail.contains(" days left"));
    assert!(find(&findings, "coordinator data `x`").detail.contains("1 × 28 × 28, 10 classes"));

    let address = taken.local_addr().unwrap().to_string();
    let findings = config(&address, &made.authority, "kind = \"csv\"\npath = \"no/such.csv\"\nlabel = \"y\"");
    assert_bad(&findings, "coordinator address", (Verdict::Warn, "in use", "another port"));
    assert_bad(&findings, "coordinator data `x`", (Verdict::Fail, "no/such.csv", "[data.x]"));
    let findings = config("127.0.0.1:0", Path::new("no/such.pem"), digits);
    assert_bad(&findings, "coordinator authority", (Verdict::Fail, "no/such.pem", "starling ca init"));
}

fn examine_authority(file: &Path, hosts: &[&str], now: u64) -> Vec<Finding> {
    let mut report = Report::new("coordinator");
    let hosts = hosts.iter().map(ToString::to_string).collect();
    certificates::authority(&mut report, &Tls { hosts, ..Tls::new(file.to_owned()) }, now);
    report.findings
}

#[test]
fn an_authority_that_ends_is_seen_before() {
    let folder = tempfile::tempdir().unwrap();
    let (_, made) = authority(&folder, (90 * DAY_S, DAY_S));
    let now = clock::now();
    let file = &made.authority;
    let late = examine_authority(file, &["a.example"], now + 65 * DAY_S);
    let life = "coordinator authority's life";
    assert_bad(&late, life, (Verdict::Warn, "less than a third", "starling ca init"));
    let ended = examine_authority(file, &["a.example"], now + 91 * DAY_S);
    assert_bad(&ended, life, (Verdict::Fail, "ended at", "starling ca init"));
    assert_bad(
        &examine_authority(file, &["höst"], now),
        "coordinator hosts",
        (Verdict::Fail, "höst", "`hosts`"),
    );
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    let open = examine_authority(file, &["a.example"], now);
    assert_bad(&open, "coordinator authority", (Verdict::Fail, "others may read", "chmod 600"));
}

#[test]
fn a_certificate_is_of_its_key_its_holder_and_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, _) = authority(&folder, (1000 * DAY_S, DAY_S));
    let now = clock::now();
    let file = folder.path().join("state/identity.pem");
    let issue = |role, name: &str| {
        Bundle::issue(&authority, role, name, (&[], Validity::lasting(now, 30 * DAY_S))).unwrap()
    };
    let mut config = ::worker::Config::new("w1".parse().unwrap());
    config.identity = Some(file.clone());
    let at = |now: u64| {
        let mut report = Report::new("worker");
        let found = certificates::worker(&mut report, &config, now);
        (report.findings, found.is_some())
    };
    let (findings, found) = at(now);
    assert!(!found);
    assert_bad(&findings, "worker certificate", (Verdict::Fail, "no such file", "starling token create"));
    issue(Role::Worker, "w1").save(&file).unwrap();
    let (findings, found) = at(now);
    assert!(found);
    assert_all_ok(&findings);
    let life = "worker certificate's life";
    assert_eq!(find(&findings, life).detail.split(" left").next(), Some("30 days"));
    assert_bad(&at(now + 21 * DAY_S).0, life, (Verdict::Warn, "9 days left", "renews"));
    assert_bad(&at(now + 31 * DAY_S).0, life, (Verdict::Fail, "ended at", "new token"));

    let whole = fs::read_to_string(&file).unwrap();
    for (role, name) in [(Role::Worker, "w2"), (Role::Operator, "w1")] {
        issue(role, name).save(&file).unwrap();
        assert_bad(&at(now).0, "worker holder", (Verdict::Fail, name, "`name`"));
    }
    let other = fs::read_to_string(&file).unwrap();
    let begin = "-----BEGIN CERTIFICATE";
    let mixed = [&whole[..whole.find(begin).unwrap()], &other[other.find(begin).unwrap()..]].concat();
    fs::write(&file, mixed).unwrap();
    assert_bad(&at(now).0, "worker certificate", (Verdict::Fail, "does not belong", "restore"));
}

#[test]
fn a_clock_is_compared_with_what_is_known() {
    let said = |now: u64, issued: Option<u64>, theirs: Option<u64>| {
        let mut report = Report::new("client");
        clock::check(&mut report, now, issued, theirs.map(|theirs| clock::Told { theirs, ours: now }));
        report.findings
    };
    let now = 1_800_000_000;
    assert_all_ok(&said(now, Some(now + 5), Some(now + 60)));
    let alone = said(now, None, None);
    assert_all_ok(&alone);
    assert!(alone[0].detail.contains("cannot be known"), "{alone:?}");
    for (findings, detail) in [
        (said(1_000, None, Some(1_000)), "before this version"),
        (said(now, Some(now + 3_600), None), "issued at"),
        (said(now, None, Some(now + 61)), "61 s behind"),
        (said(now, None, Some(now - 100)), "100 s ahead of"),
    ] {
        assert_bad(&findings, "client clock", (Verdict::Fail, detail, "NTP"));
    }
}

#[test]
fn a_folder_must_be_writable_and_have_space() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(&folder, "file", "x");
    let at = |path: &Path| {
        let mut report = Report::new("worker");
        disk::folder(&mut report, "state directory", path);
        report.findings
    };
    for (path, detail) in
        [(folder.path().to_owned(), "can be written"), (folder.path().join("a/b"), "be made")]
    {
        let findings = at(&path);
        let found = find(&findings, "worker state directory");
        assert!(found.result == Verdict::Ok && found.detail.contains(detail), "{found:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    for path in [file.clone(), file.join("below"), PathBuf::from("/proc/starling")] {
        let advice = "write";
        assert_bad(&at(&path), "worker state directory", (Verdict::Fail, &path.to_string_lossy(), advice));
    }
    let mut report = Report::new("worker");
    disk::space(&mut report, (1 << 30) - 1);
    assert_bad(&report.findings, "worker free space", (Verdict::Warn, "1.1 GB", "make room"));
    disk::space(&mut report, 1 << 30);
    assert_eq!(report.findings[1].result, Verdict::Ok);
}

#[test]
fn data_that_is_not_there_is_named() {
    let mut report = Report::new("worker");
    let source = Source::Folder { path: "no/such/folder".into(), mean: None, std: None };
    disk::data_sets(&mut report, &BTreeMap::from([("xrays".to_owned(), source)]));
    assert_bad(&report.findings, "worker data `xrays`", (Verdict::Fail, "no/such/folder", "[data.xrays]"));
}

/// A coordinator with an authority; without one: plaintext.
async fn serve(data: &Path, tls: Option<Tls>, stop: CancellationToken) -> SocketAddr {
    let config = ::coordinator::Config { data_dir: data.to_owned(), tls, ..::coordinator::Config::default() };
    let host = Arc::new(Host::new(BTreeMap::new(), BTreeMap::new(), 1));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(::coordinator::serve(config, host, listener, stop.cancelled_owned()));
    address
}

#[tokio::test]
async fn the_way_to_a_real_coordinator() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, made) = authority(&folder, (100 * DAY_S, DAY_S));
    let tls = Tls { hosts: vec!["127.0.0.1".into()], ..Tls::new(made.authority.clone()) };
    let stop = CancellationToken::new();
    let address = serve(&folder.path().join("data"), Some(tls), stop.clone()).await;
    let url = format!("https://{address}");

    let findings = client(&url, Some(&made.operator)).await;
    assert_all_ok(&findings);
    assert_eq!(find(&findings, "client health").detail, "SERVING");
    assert!(find(&findings, "client clock").detail.contains("from the coordinator's"), "{findings:?}");
    find(&findings, "client identity");

    let file = worker_config(&folder, &url);
    assert_bad(&worker(&file).await, "worker handshake", (Verdict::Warn, "neither", "first"));
    let token = identity::Token::create(authority.fingerprint());
    let with_token = fs::read_to_string(&file).unwrap().replacen(
        "name",
        &format!("token = \"{}\"\nname", token.text()),
        1,
    );
    let newcomer = worker(&write(&folder, "newcomer.toml", &with_token)).await;
    assert_eq!(find(&newcomer, "worker health").detail, "SERVING");
    assert_bad(&newcomer, "worker identity", (Verdict::Warn, "not enrolled yet", "token"));
    let lasting = Validity::lasting(clock::now(), 30 * DAY_S);
    let issued = Bundle::issue(&authority, Role::Worker, "w1", (&[], lasting)).unwrap();
    issued.save(&folder.path().join("state/identity.pem")).unwrap();
    let findings = worker(&file).await;
    assert_all_ok(&findings);
    find(&findings, "worker identity");

    let stranger = tempfile::tempdir().unwrap();
    let (_, foreign) = self::authority(&stranger, (100 * DAY_S, DAY_S));
    let findings = client(&url, Some(&foreign.operator)).await;
    assert_bad(
        &findings,
        "client handshake",
        (Verdict::Fail, "invalid peer certificate", "another authority"),
    );
    let wrong_name = format!("https://localhost:{}", address.port());
    let findings = client(&wrong_name, Some(&made.operator)).await;
    assert_bad(&findings, "client handshake", (Verdict::Fail, "localhost", "`hosts`"));
    let findings = client(&format!("http://{address}"), None).await;
    assert_bad(&findings, "client health", (Verdict::Fail, "no answer", "https://"));
    let ended =
        Bundle::issue(&authority, Role::Operator, "old", (&[], Validity::lasting(clock::now() - 1_000, 9)));
    let ended_file = folder.path().join("ended.pem");
    ended.unwrap().save(&ended_file).unwrap();
    let findings = client(&url, Some(&ended_file)).await;
    assert_bad(&findings, "client certificate's life", (Verdict::Fail, "ended at", "enrol"));
    assert_bad(&findings, "client health", (Verdict::Fail, "Expired", "refuses this certificate"));
    stop.cancel();
}

#[tokio::test]
async fn the_way_that_ends_early_or_is_plain() {
    let folder = tempfile::tempdir().unwrap();
    let address = serve(&folder.path().join("data"), None, CancellationToken::new()).await;
    assert_all_ok(&client(&format!("http://{address}"), None).await);
    assert_all_ok(&worker(&worker_config(&folder, &format!("http://{address}"))).await);
    let (_, made) = authority(&folder, (100 * DAY_S, DAY_S));
    let findings = client(&format!("https://{address}"), Some(&made.operator)).await;
    assert_bad(&findings, "client handshake", (Verdict::Fail, "", "http://"));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let findings = client(&format!("http://{free}"), None).await;
    assert_bad(&findings, "client port", (Verdict::Fail, "refused", "start the coordinator"));
    assert!(
        !findings.iter().any(|finding| finding.check == "client health"),
        "nothing after the step that fails"
    );
    let findings = client("http://no-such-host.invalid:1", None).await;
    assert_bad(&findings, "client name", (Verdict::Fail, "no-such-host.invalid", "DNS"));
    assert_bad(&client("ftp://x", None).await, "client address", (Verdict::Fail, "ftp://x", "https://"));
}
