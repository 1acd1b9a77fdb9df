//! Turns every file of `src/topologies/` into a module and a row of `TOPOLOGIES`, so that a new
//! topology is one new file and no edit elsewhere.

use std::{env, error::Error, fmt::Write, fs, path::Path};

#[allow(clippy::disallowed_methods, reason = "the ban on files is on the crate, not on its build script")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=src/topologies");
    let root = env::var("CARGO_MANIFEST_DIR")?;
    let mut names = Vec::new();
    for entry in fs::read_dir(Path::new(&root).join("src/topologies"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
        }
    }
    names.sort();
    let mut out = String::new();
    for name in &names {
        writeln!(out, "#[path = \"{root}/src/topologies/{name}.rs\"]\npub mod {name};")?;
    }
    let rows: Vec<String> = names.iter().map(|name| format!("{name}::ROW")).collect();
    writeln!(
        out,
        "/// Every topology, in file order.\npub const TOPOLOGIES: &[crate::Row] = &[{}];",
        rows.join(", ")
    )?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("topologies.rs"), out)?;
    Ok(())
}
