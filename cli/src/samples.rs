//! Every file in deploy/ is what the program reads, and the annotated ones leave no key out.

use crate::{config::Layers, coordinator, exit::Failure, run, worker};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

fn check(file: &Path) -> Result<(), Failure> {
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    match name.split(['.', '-']).next() {
        Some("coordinator") => coordinator::configure(&Layers::read(file)?).map(drop),
        Some("worker") => worker::configure(&Layers::read(file)?).map(drop),
        Some("peer") => crate::peer::configure(&Layers::read(file)?).map(drop),
        Some("run") => run::read_spec(file).map(drop),
        _ => Err(Failure::usage("nothing reads a file of this name")),
    }
}

#[test]
fn every_sample_is_read_without_a_complaint() {
    let mut files = 0;
    for folder in ["samples", "compose"] {
        for entry in std::fs::read_dir(deploy(folder)).unwrap() {
            let file = entry.unwrap().path();
            check(&file).unwrap_or_else(|failure| panic!("{}: {failure}", file.display()));
            files += 1;
        }
    }
    assert!(files >= 8, "{files} samples");
}

/// Keys of nested objects, without those under `skip`.
fn keys(value: &Value, skip: &[&str], found: &mut Vec<String>) {
    for (key, inner) in
        value.as_object().into_iter().flatten().filter(|(key, _)| !skip.contains(&key.as_str()))
    {
        found.push(key.clone());
        keys(inner, skip, found);
    }
}

fn assert_explains(sample: &str, value: &Value, skip: &[&str]) {
    let text = std::fs::read_to_string(deploy(sample)).unwrap();
    let mut all = Vec::new();
    keys(value, skip, &mut all);
    assert!(all.len() > 3);
    for key in all {
        let there =
            [format!("{key} = "), format!("[{key}]"), format!("[{key}.")].iter().any(|t| text.contains(t));
        assert!(there, "{sample} does not explain `{key}`");
    }
}

#[test]
fn annotated_samples_have_every_key() {
    let config = serde_json::to_value(::coordinator::Config::default()).unwrap();
    assert_explains("samples/coordinator.toml", &config, &[]);
    let own = serde_json::json!({"listen": 0, "plaintext": 0, "insecure": 0, "threads": 0, "data": {}, "shapes": {}});
    assert_explains("samples/coordinator.toml", &own, &[]);
    let mut config = ::worker::Config::new("w".parse().unwrap());
    config.share = Some(::worker::Share { index: 0, of: 1 });
    config.health = Some(std::net::SocketAddr::from(([127, 0, 0, 1], 7081)));
    assert_explains("samples/worker.toml", &serde_json::to_value(config).unwrap(), &[]);
    let peer: ::worker::peer::Config = Layers::read(&deploy("samples/peer.toml")).unwrap().extract().unwrap();
    assert_explains("samples/peer.toml", &serde_json::to_value(peer).unwrap(), &["digits"]);
    let (_, spec) = run::read_spec(&deploy("samples/run-decentralised.toml")).unwrap();
    let topology = serde_json::to_value(spec.topology.unwrap()).unwrap();
    assert_explains("samples/run-decentralised.toml", &topology, &[]);
    let (_, spec) = run::read_spec(&deploy("samples/run.toml")).unwrap();
    assert_explains("samples/run.toml", &serde_json::to_value(spec).unwrap(), &[]);
}
