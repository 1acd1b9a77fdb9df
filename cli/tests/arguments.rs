//! The binary as a script sees it: exit codes, and the order of file, environment and flags.

use std::process::{Command, Output};

fn starling(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
    command.args(args).env_remove("STARLING_COORDINATOR").envs(environment.iter().copied());
    command.output().expect("the binary was built")
}

fn assert_fails(output: &Output, code: i32, wants: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(output.stdout.is_empty(), "results only on stdout");
    for want in wants {
        assert!(text.contains(want), "{want}: {text}");
    }
}

fn config(folder: &tempfile::TempDir, text: &str) -> String {
    let file = folder.path().join("coordinator.toml");
    std::fs::write(&file, text).expect("a new folder");
    file.to_str().expect("a path in ASCII").to_owned()
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(&folder, "listen = \"192.0.2.1:1\"\nplaintext = true\n");
    let args = ["coordinator", "--config", &file];
    assert_fails(&starling(&args, &[]), 64, &["192.0.2.1:1", "[tls]", "--insecure"]);
    let environment = [("STARLING__LISTEN", "192.0.2.2:2")];
    assert_fails(&starling(&args, &environment), 64, &["192.0.2.2:2"]);
    let with_flag = [&args[..], &["--listen", "192.0.2.3:3"]].concat();
    assert_fails(&starling(&with_flag, &environment), 64, &["192.0.2.3:3"]);
}

#[test]
fn misspelt_keys_are_named_wherever_they_come_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(&folder, "uploads_in_fligth = 2\n");
    let args = ["coordinator", "--config", &file];
    let wants = ["coordinator.toml", "`uploads_in_fligth`", "did you mean `uploads_in_flight`?"];
    assert_fails(&starling(&args, &[]), 64, &wants);
    let file = config(&folder, "");
    let args = ["coordinator", "--config", &file];
    let wants = ["STARLING__DATA__X__TRIAN", "did you mean `train`?"];
    let environment = [("STARLING__DATA__X__KIND", "digits"), ("STARLING__DATA__X__TRIAN", "5")];
    assert_fails(&starling(&args, &environment), 64, &wants);
}

#[test]
fn a_page_that_cannot_be_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let base = format!("plaintext = true\nlisten = \"127.0.0.1:0\"\ndata_dir = \"{}\"\n", data.display());
    let with = |page: &str| config(&folder, &format!("{base}[page]\n{page}\n"));
    let refused = |file: &str, code, wants: &[&str]| {
        assert_fails(&starling(&["coordinator", "--config", file], &[]), code, wants);
    };
    refused(
        &with("lisen = \"127.0.0.1:0\""),
        64,
        &["coordinator.toml", "`page.lisen`", "did you mean `listen`?"],
    );
    refused(&with("tls = false"), 64, &["coordinator.toml", "`listen`"]);
    refused(
        &with("listen = \"192.0.2.1:1\""),
        64,
        &["192.0.2.1:1", "page.tls = true", "page.insecure = true"],
    );
    refused(&with("listen = \"127.0.0.1:0\"\ntls = true"), 64, &["page.tls", "[tls]"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let wants = [&*address, "page.listen", "[page]", "--page"];
    refused(&with(&format!("listen = \"{address}\"")), 69, &wants);
    let file = config(&folder, &base);
    assert_fails(&starling(&["coordinator", "--config", &file, "--page", &address], &[]), 69, &wants);
    assert!(!data.join("starling.redb").exists());
}

#[test]
fn exit_codes_tell_what_was_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run.toml");
    std::fs::write(&run, "name = \"a\"\n").unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{free}");
    let out = folder.path().to_str().unwrap();
    for (args, code, wants) in [
        (&["coordinater"][..], 64, &["'coordinator'"][..]),
        (&["worker", "--config", "no/such.toml"], 66, &["no/such.toml"]),
        (&["run", "submit", run.to_str().unwrap()], 64, &["run.toml", "rounds"]),
        (&["run", "list", "--coordinator", &nobody], 69, &["starling coordinator", &nobody]),
        (&["worker", "list", "--coordinator", &nobody], 69, &["starling coordinator"]),
        (
            &["demo", "--mode", "decentralised", "--algorithm", "choco-sgd", "--topology", "base-graph"],
            64,
            &["base-graph", "the same neighbours"],
        ),
        (&["demo", "--topology", "ring"], 64, &["--mode decentralised"]),
        (&["topology", "report", "--kind", "rng", "--n", "8"], 64, &["did you mean `ring`"]),
        (&["demo", "--out", out], 73, &["not empty"]),
    ] {
        assert_fails(&starling(args, &[]), code, wants);
    }
    // A report with an error is a result all the same.
    let args = ["topology", "report", "--kind", "reset-chain", "--n", "8", "--mode", "symmetric"];
    let report = starling(&args, &[]);
    assert_eq!(report.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&report.stdout).contains("E3"), "{report:?}");
    let version = starling(&["--version"], &[]);
    assert!(version.status.success() && version.stdout.starts_with(b"starling "));
}
