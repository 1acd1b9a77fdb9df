//! Turns every file of `src/topologies/` and of `src/rules/` into a module and a row of a table, so that a
//! new topology or rule is one new file and no edit elsewhere.

use std::{env, error::Error, fmt::Write, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    list("topologies", "Every topology, in file order.", "TOPOLOGIES", "crate::Row")?;
    list("rules", "Every rule, in file order.", "RULES", "crate::rule::Row")
}

#[allow(clippy::disallowed_methods, reason = "the ban on files is on the crate, not on its build script")]
fn list(folder: &str, about: &str, table: &str, row: &str) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=src/{folder}");
    let root = env::var("CARGO_MANIFEST_DIR")?;
    let mut names = Vec::new();
    for entry in fs::read_dir(Path::new(&root).join("src").join(folder))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
        }
    }
    names.sort();
    let mut out = String::new();
    for name in &names {
        writeln!(out, "#[path = \"{root}/src/{folder}/{name}.rs\"]\npub mod {name};")?;
    }
    let rows: Vec<String> = names.iter().map(|name| format!("{name}::ROW")).collect();
    writeln!(out, "/// {about}\npub const {table}: &[{row}] = &[{}];", rows.join(", "))?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join(format!("{folder}.rs")), out)?;
    Ok(())
}
