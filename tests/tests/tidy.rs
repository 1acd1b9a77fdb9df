//! What the compiler and clippy cannot check: who depends on whom, what a pure crate may name, how
//! long a file is, that it says why it exists. Each check is a function from the tracked files to a
//! list of complaints, with samples that it must catch, since a check that cannot fail is worse than
//! none: one believes it.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

/// Its samples of bad code are not bad code.
const THIS: &str = "tests/tests/tidy.rs";

struct File {
    path: String,
    text: String,
}

/// One rule of the house.
struct Check {
    find: fn(&[File]) -> Vec<String>,
    /// Path and text: each must be caught.
    bad: &'static [(&'static str, &'static str)],
    /// Must pass.
    good: &'static [(&'static str, &'static str)],
}

const CHECKS: &[Check] = &[
    Check {
        find: dependency_direction,
        bad: &[
            ("gossip/Cargo.toml", "[dependencies]\nprivacy.workspace = true"),
            ("algorithms/Cargo.toml", "[dependencies]\ntokio.workspace = true"),
            ("algorithms/Cargo.toml", "[dev-dependencies]\nproto.workspace = true"),
            ("coordinator/Cargo.toml", "[dependencies]\nworker = { path = \"../worker\" }"),
            ("coordinator/Cargo.toml", "[dependencies]\nw = { package = \"worker\", path = \"../worker\" }"),
            ("worker/Cargo.toml", "[target.'cfg(unix)'.dependencies]\nsimulation.workspace = true"),
            ("coordinator/Cargo.toml", "[dependencies]\ncandle-core.workspace = true"),
            ("worker/Cargo.toml", "[dependencies]\nprost.workspace = true"),
            ("newcomer/Cargo.toml", "[dependencies]\nproto.workspace = true"),
        ],
        good: &[
            ("proto/Cargo.toml", "[dependencies]\nalgorithms.workspace = true\nprost.workspace = true"),
            ("worker/Cargo.toml", "[dependencies]\nproto.workspace = true\ncandle-core.workspace = true"),
            ("Cargo.toml", "[workspace.dependencies]\nworker = { path = \"worker\" }"),
        ],
    },
    Check {
        find: lints_are_inherited,
        bad: &[("gossip/Cargo.toml", "[package]\nname = \"gossip\"")],
        good: &[("gossip/Cargo.toml", "[lints]\nworkspace = true")],
    },
    Check {
        find: tensors_stay_in_the_engine,
        bad: &[("worker/src/session.rs", "use candle_core::Tensor;"), ("cli/src/main.rs", "cudarc::init();")],
        good: &[
            ("worker/src/engine/model.rs", "use candle_nn::VarMap;"),
            ("worker/src/lib.rs", "//! The engine alone knows candle_core."),
        ],
    },
    Check {
        find: pure_crates_stay_pure,
        bad: &[
            ("algorithms/src/a.rs", "use std::{fs, sync::Arc};"),
            ("gossip/src/a.rs", "let x = std::net::TcpStream::connect(a);"),
            ("privacy/src/a.rs", "std::thread::scope(|s| ());"),
            ("gossip/src/a.rs", "let now = Instant::now();"),
            ("algorithms/src/a.rs", "use std::time::SystemTime;"),
            ("privacy/src/a.rs", "let m: HashMap<u8, u8>;"),
            ("gossip/src/a.rs", "tokio::spawn(f);"),
            ("gossip/src/a.rs", "use tonic::Status;"),
        ],
        good: &[
            ("algorithms/build.rs", "use std::fs;"),
            ("coordinator/src/store.rs", "use std::fs;"),
            ("gossip/src/a.rs", "// Instant::now() would be wrong here.\nlet offset = refs.len();"),
        ],
    },
    Check {
        find: files_say_why,
        bad: &[("cli/src/a.rs", "use std::fmt;\n//! Late."), ("proto/a.proto", "syntax = \"proto3\";")],
        good: &[("cli/src/a.rs", "//! Why.\n"), ("proto/a.proto", "// Why.\nsyntax = \"proto3\";")],
    },
    Check { find: files_are_short, bad: &[], good: &[] },
    Check {
        find: nothing_is_left_for_later,
        bad: &[
            ("a.rs", concat!("// TO", "DO: later")),
            ("a.md", concat!("FIX", "ME")),
            ("a.rs", concat!("let x = to", "do!();")),
            ("a.rs", concat!("un", "implemented!()")),
            ("a.sh", concat!("# X", "XX")),
        ],
        good: &[("a.sh", "mktemp -d /tmp/XXXXXX"), ("Cargo.toml", "todo = \"deny\"")],
    },
    Check {
        find: methods_cite_their_paper,
        bad: &[
            ("algorithms/src/rules/a.rs", "pub const RULE: Rule = Rule { name: \"a\", citation: \"\" };"),
            ("gossip/src/topologies/a.rs", "pub const ROW: Row = Row { name: \"a\" };"),
        ],
        good: &[("algorithms/src/rules/a.rs", "    citation: \"McMahan 2017\",")],
    },
    Check {
        find: wire_is_documented,
        bad: &[
            ("proto/a.proto", "// File.\nservice A {\n  rpc B(C) returns (D);\n}"),
            ("proto/a.proto", "// File.\npackage a;\n\nmessage A {}"),
        ],
        good: &[(
            "proto/a.proto",
            "// S.\nservice A {\n  // B.\n  rpc B(C) returns (D);\n}\n// M.\nmessage M {}",
        )],
    },
    Check {
        find: no_secrets,
        bad: &[
            ("deploy/compose.yaml", "      DB_PASSWORD: hunter2"),
            ("deploy/coordinator.toml", "token = \"abc\""),
            ("deploy/tls/server.key", ""),
            ("tests/a.pem", concat!("-----BEGIN PRIVATE", " KEY-----")),
        ],
        good: &[
            ("deploy/compose.yaml", "  password: ${DB_PASSWORD}\n  secretName: starling-tls\n  secret:"),
            (
                "deploy/coordinator.toml",
                "token_file = \"/run/secrets/token\"\ntoken = \"/run/secrets/token\"",
            ),
        ],
    },
    Check {
        find: unsafe_code_is_in_the_kernels,
        bad: &[
            ("proto/src/a.rs", "#[allow(unsafe_code)]"),
            ("worker/src/engine/a.rs", "#[allow(unsafe_code)]\nunsafe {}"),
        ],
        good: &[("worker/src/engine/a.rs", "#[allow(unsafe_code, reason = \"a kernel launch\")]")],
    },
    Check {
        find: selects_are_biased,
        bad: &[("worker/src/a.rs", "tokio::select! {\n    a = b => {}\n}")],
        good: &[("worker/src/a.rs", "tokio::select! {\n    biased;\n    a = b => {}\n}")],
    },
];

#[test]
fn the_tree_is_tidy() {
    let files = tracked_files();
    assert!(files.iter().any(|file| file.path == THIS), "the list of files is wrong");
    let complaints: Vec<String> = CHECKS.iter().flat_map(|check| (check.find)(&files)).collect();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn each_check_can_fail() {
    let file = |(path, text): &(&str, &str)| File { path: (*path).into(), text: (*text).into() };
    for check in CHECKS {
        for sample in check.bad {
            assert!(!(check.find)(&[file(sample)]).is_empty(), "not caught: {sample:?}");
        }
        let good: Vec<File> = check.good.iter().map(file).collect();
        assert_eq!((check.find)(&good), Vec::<String>::new());
    }
}

#[test]
fn an_archive_without_git_is_checked_as_well() {
    let paths = walk(root(), root());
    assert!(paths.iter().any(|path| path == THIS) && paths.iter().any(|path| path == "Cargo.toml"));
}

#[test]
fn tests_do_not_count_as_production_lines() {
    let lines = |n: usize| "let x = 1;\n".repeat(n);
    let file = |path: &str, text: String| [File { path: path.into(), text }];
    assert!(!files_are_short(&file("cli/src/a.rs", lines(401))).is_empty());
    assert!(files_are_short(&file("cli/src/a.rs", lines(400))).is_empty());
    assert!(files_are_short(&file("cli/tests/a.rs", lines(900))).is_empty());
    let tested = lines(390) + "#[cfg(test)]\nmod tests {\n" + &lines(300);
    assert!(files_are_short(&file("cli/src/a.rs", tested)).is_empty());
    let early = "#[cfg(test)]\nuse a::b;\n".to_owned() + &lines(401);
    assert!(!files_are_short(&file("cli/src/a.rs", early)).is_empty());
}

// === The files ===

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is a folder of the workspace")
}

/// What git tracks, or, in an unpacked archive without git, everything but build outputs.
fn tracked_files() -> Vec<File> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is a folder of the workspace");
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output();
    let listed = listed.ok().filter(|out| out.status.success() && !out.stdout.is_empty());
    let paths = listed.map_or_else(
        || walk(root, root),
        |out| String::from_utf8_lossy(&out.stdout).split_terminator('\0').map(str::to_owned).collect(),
    );
    // What cannot be read as text is deleted or binary: nothing to check.
    let read = |path: String| fs::read_to_string(root.join(&path)).ok().map(|text| File { path, text });
    paths.into_iter().filter_map(read).collect()
}

fn walk(root: &Path, folder: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).expect("the sources are readable").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let skipped = name == "target" || name == ".git";
        if path.is_dir() && !skipped {
            paths.extend(walk(root, &path));
        } else if path.is_file() {
            paths.extend(path.strip_prefix(root).ok().and_then(Path::to_str).map(|p| p.replace('\\', "/")));
        }
    }
    paths
}

/// Complaints about lines, as `path:line: what`.
fn lines(files: &[File], applies: fn(&str) -> bool, complain: fn(&str) -> Option<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| applies(&file.path)) {
        for (number, line) in file.text.lines().enumerate() {
            complaints.extend(complain(line).map(|what| format!("{}:{}: {what}", file.path, number + 1)));
        }
    }
    complaints
}

fn extension(path: &str) -> Option<&str> {
    path.rsplit_once('.').map(|(_, extension)| extension)
}

fn is_rust(path: &str) -> bool {
    extension(path) == Some("rs")
}

/// A line without its comment.
fn code(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// Whether `needle` stands in `line` as a whole: not as a part of a longer name.
fn names(line: &str, needle: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(needle).any(|(at, _)| {
        let before = needle.starts_with(part) && line[..at].ends_with(part);
        let after = needle.ends_with(part) && line[at + needle.len()..].starts_with(part);
        !before && !after
    })
}

// === Crates ===

const PURE: &[&str] = &["algorithms", "gossip", "privacy"];

/// What each crate may depend on among ours.
fn allowed(krate: &str) -> Option<Vec<&'static str>> {
    let layers: &[&[&str]] = &[
        PURE,
        &["identity", "proto"],
        &["page"],
        &["coordinator", "worker"],
        &["simulation"],
        &["cli"],
        &["tests"],
        &["fuzz"],
    ];
    let layer = layers.iter().position(|layer| layer.contains(&krate))?;
    Some(layers[..layer].concat())
}

fn manifests(files: &[File]) -> impl Iterator<Item = (&str, toml::Table)> {
    files.iter().filter_map(|file| {
        let krate = file.path.strip_suffix("/Cargo.toml")?;
        Some((krate, file.text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.path))))
    })
}

/// Names of all packages that a manifest asks for, renamed or not, for any target.
fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in manifest {
        let Some(table) = value.as_table() else { continue };
        if key.ends_with("dependencies") {
            let package = |(name, value): (&String, &toml::Value)| {
                value.get("package").and_then(|p| p.as_str()).unwrap_or(name).to_owned()
            };
            found.extend(table.iter().map(package));
        } else if key == "target" {
            found.extend(table.values().filter_map(toml::Value::as_table).flat_map(dependencies));
        }
    }
    found
}

fn dependency_direction(files: &[File]) -> Vec<String> {
    // Those for which only one crate answers, and those that a pure crate must not see.
    let owned = BTreeMap::from([
        ("candle-core", "worker"),
        ("candle-nn", "worker"),
        ("cudarc", "worker"),
        ("prost", "proto"),
    ]);
    let impure = ["tokio", "tonic", "prost", "hyper", "tower", "rayon", "redb", "reqwest", "tempfile"];
    let ours = [
        "algorithms",
        "gossip",
        "privacy",
        "identity",
        "proto",
        "page",
        "coordinator",
        "worker",
        "simulation",
        "starling",
    ];
    let mut complaints = Vec::new();
    for (krate, manifest) in manifests(files) {
        let Some(allowed) = allowed(krate) else {
            complaints.push(format!("{krate}/Cargo.toml: not in the layers of tests/tests/tidy.rs"));
            continue;
        };
        for dependency in dependencies(&manifest) {
            let dependency = dependency.as_str();
            // The package of cli/ is called starling.
            let folder = if dependency == "starling" { "cli" } else { dependency };
            let upward = ours.contains(&dependency) && !allowed.contains(&folder);
            let foreign = owned.get(dependency).is_some_and(|owner| *owner != krate);
            if upward || foreign || (PURE.contains(&krate) && impure.contains(&dependency)) {
                complaints.push(format!("{krate}/Cargo.toml: must not depend on {dependency}"));
            }
        }
    }
    complaints
}

fn lints_are_inherited(files: &[File]) -> Vec<String> {
    let inherits = |manifest: &toml::Table| {
        manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool)
            == Some(true)
    };
    // A workspace of its own (fuzz/) has nothing to inherit from.
    let own = |manifest: &toml::Table| manifest.contains_key("workspace");
    let without = manifests(files).filter(|(_, manifest)| !inherits(manifest) && !own(manifest));
    without.map(|(krate, _)| format!("{krate}/Cargo.toml: lacks [lints] workspace = true")).collect()
}

// === Sources ===

fn tensors_stay_in_the_engine(files: &[File]) -> Vec<String> {
    let applies = |path: &str| is_rust(path) && !path.starts_with("worker/src/engine/") && path != THIS;
    lines(files, applies, |line| {
        let found = ["candle_core", "candle_nn", "candle_transformers", "cudarc"];
        let name = found.into_iter().find(|name| names(code(line), name))?;
        Some(format!("names {name}, which belongs to worker/src/engine/"))
    })
}

fn pure_crates_stay_pure(files: &[File]) -> Vec<String> {
    let applies =
        |path: &str| is_rust(path) && PURE.iter().any(|krate| path.starts_with(&format!("{krate}/src/")));
    lines(files, applies, |line| {
        let names_of = [
            "fs",
            "fs::",
            "net::",
            "thread::",
            "process::",
            "env::var",
            "SystemTime",
            "Instant",
            "HashMap",
            "HashSet",
            "tokio",
            "tonic",
            "prost",
            "candle_core",
            "thread_rng",
            "thread_local",
        ];
        let code = code(line);
        let name = names_of.into_iter().find(|name| names(code, name))?;
        Some(format!("names {name} in a pure crate"))
    })
}

fn files_say_why(files: &[File]) -> Vec<String> {
    let opens_badly = |file: &&File| match extension(&file.path) {
        Some("rs") => !file.text.starts_with("//!"),
        Some("proto") => !file.text.starts_with("//"),
        _ => false,
    };
    files
        .iter()
        .filter(opens_badly)
        .map(|file| format!("{}: does not open with why it exists", file.path))
        .collect()
}

fn files_are_short(files: &[File]) -> Vec<String> {
    let production = |path: &str| {
        let test = ["tests/", "benches/"]
            .iter()
            .any(|dir| path.starts_with(dir) || path.contains(&format!("/{dir}")));
        is_rust(path) && !test && !path.ends_with("/tests.rs")
    };
    let length = |text: &str| {
        let all: Vec<&str> = text.lines().collect();
        let tests = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ");
        all.windows(2).position(tests).unwrap_or(all.len())
    };
    let measured =
        files.iter().filter(|file| production(&file.path)).map(|file| (&file.path, length(&file.text)));
    measured
        .filter(|(_, n)| *n > 400)
        .map(|(path, n)| format!("{path}: {n} production lines, at most 400"))
        .collect()
}

fn nothing_is_left_for_later(files: &[File]) -> Vec<String> {
    lines(
        files,
        |_| true,
        |line| {
            let marks = [
                concat!("TO", "DO"),
                concat!("FIX", "ME"),
                concat!("X", "XX"),
                concat!("to", "do!"),
                concat!("un", "implemented!"),
            ];
            let mark = marks.into_iter().find(|mark| names(line, mark))?;
            Some(format!("contains {mark}"))
        },
    )
}

fn methods_cite_their_paper(files: &[File]) -> Vec<String> {
    let method = |file: &&File| {
        let folders = ["algorithms/src/rules/", "gossip/src/rules/", "gossip/src/topologies/"];
        is_rust(&file.path) && folders.iter().any(|folder| file.path.starts_with(folder))
    };
    let cites = |file: &&File| {
        let citation = file.text.split_once("citation:").map(|(_, rest)| rest.trim_start());
        citation.is_some_and(|rest| rest.starts_with('"') && !rest.starts_with("\"\""))
    };
    files.iter().filter(method).filter(|f| !cites(f)).map(|f| format!("{}: cites no paper", f.path)).collect()
}

fn wire_is_documented(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| extension(&file.path) == Some("proto")) {
        let mut above = "";
        for line in file.text.lines().map(str::trim) {
            let item = ["rpc ", "message ", "enum ", "service "].iter().any(|word| line.starts_with(word));
            if item && !above.starts_with("//") {
                complaints.push(format!("{}: no comment above `{line}`", file.path));
            }
            above = line;
        }
    }
    complaints
}

fn no_secrets(files: &[File]) -> Vec<String> {
    let kept = |path: &str| extension(path).is_some_and(|e| ["pem", "key", "p12", "pfx", "env"].contains(&e));
    let in_deploy = files.iter().filter(|file| file.path.starts_with("deploy/") && kept(&file.path));
    let mut complaints: Vec<String> =
        in_deploy.map(|file| format!("{}: holds a secret", file.path)).collect();
    complaints.extend(lines(
        files,
        |_| true,
        |line| line.contains(concat!("PRIVATE", " KEY-----")).then(|| "holds a private key".to_owned()),
    ));
    complaints.extend(lines(
        files,
        |path| path.starts_with("deploy/"),
        |line| {
            let (key, value) = line.split_once([':', '='])?;
            let key = key.trim().trim_matches('"').rsplit(['_', '-', '.', ' ']).next()?.to_ascii_lowercase();
            let value = value.trim().trim_matches(['"', '\'']);
            let secret = ["password", "passwd", "passphrase", "secret", "token"].contains(&key.as_str());
            // A variable, or the path of a file that is mounted.
            let literal = !value.is_empty() && !value.starts_with(['$', '/', '#', '{', '[']);
            (secret && literal).then(|| format!("`{key}` has a literal value"))
        },
    ));
    complaints
}

fn unsafe_code_is_in_the_kernels(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| is_rust(&file.path) && file.path != THIS) {
        let kernels =
            ["worker/src/engine/", "privacy/src/sampler/", "privacy/src/widest.rs", "cli/src/memory.rs"];
        let kernels = kernels.iter().any(|at| file.path.starts_with(at));
        for attribute in file.text.split("allow(unsafe_code").skip(1) {
            let reasoned = attribute.split(']').next().is_some_and(|rest| rest.contains("reason = "));
            if !kernels || !reasoned {
                let path = &file.path;
                complaints.push(format!("{path}: unsafe code belongs into a kernel, with a reason"));
            }
        }
    }
    complaints
}

/// An unbiased `select!` draws from a generator that no seed reaches: a run could not be replayed.
fn selects_are_biased(files: &[File]) -> Vec<String> {
    let unbiased = |file: &&File| {
        let arms = file.text.split("select! {").skip(1);
        arms.into_iter().any(|arms| !arms.trim_start().starts_with("biased;"))
    };
    let rust = files.iter().filter(|file| is_rust(&file.path) && file.path != THIS);
    rust.filter(unbiased).map(|file| format!("{}: a select! without `biased;`", file.path)).collect()
}
