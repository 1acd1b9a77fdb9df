//! From a run file, its [simulation] and [sweep] tables and the flags to the points of a sweep. Every point
//! is checked before the first one runs.

use super::settings::{SETTINGS, lay_over};
use proto::spec::RunSpec;
use std::{collections::BTreeSet, str::FromStr};
use toml::{Table, Value};

/// Points that a sweep may have.
const MOST: usize = 10_000;

/// `--set KEY=VALUE,…`
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Set {
    path: Vec<String>,
    values: Vec<Value>,
}

/// `--seeds`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seeds(Vec<u64>);

/// One setting of everything.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Point {
    /// What tells it from the others; also its folder's name.
    pub(super) name: String,
    /// The run.
    pub(super) spec: RunSpec,
    /// Number of clients.
    pub(super) clients: usize,
}

/// Every point, in order.
#[derive(Debug)]
pub(super) struct Sweep {
    pub(super) points: Vec<Point>,
}

impl FromStr for Set {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}`: expected KEY=VALUE, e.g. local.lr=0.1 or algorithm.kind=fedavg,scaffold");
        let (key, values) = text.split_once('=').ok_or_else(wrong)?;
        let path: Vec<String> = key.split('.').map(|part| part.trim().to_owned()).collect();
        if path.iter().any(String::is_empty) || values.trim().is_empty() {
            return Err(wrong());
        }
        Ok(Self { path, values: split(values).into_iter().map(value).collect() })
    }
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}`: expected a range such as 0..3 (0, 1 and 2) or a list such as 0,4,7");
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
        let seeds: Vec<u64> = match text.split_once("..") {
            Some((from, to)) => {
                let (from, to) = (number(from)?, number(to)?);
                if to.saturating_sub(from) > MOST as u64 {
                    return Err(format!("`{text}`: more than {MOST} seeds"));
                }
                (from..to).collect()
            }
            None => text.split(',').map(number).collect::<Result<_, _>>()?,
        };
        if seeds.is_empty() { Err(wrong()) } else { Ok(Self(seeds)) }
    }
}

/// Splits at commas outside of brackets, braces and quotes.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0_i32, None);
    for (at, c) in text.char_indices() {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('[' | '{', None) => depth += 1,
            (']' | '}', None) => depth -= 1,
            (',', None) if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// A TOML value; what is none is a string.
fn value(text: &str) -> Value {
    let text = text.trim();
    let parsed = format!("x = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("x"));
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Puts a value at a path, making tables on the way.
fn put(table: &mut Table, path: &[String], value: Value) -> Result<(), String> {
    let (last, above) = path.split_last().ok_or("an empty key path")?;
    let mut at = table;
    for part in above {
        let next = at.entry(part.clone()).or_insert_with(|| Value::Table(Table::new()));
        at = next.as_table_mut().ok_or_else(|| format!("`{}`: `{part}` is no table", path.join(".")))?;
    }
    at.insert(last.clone(), value);
    Ok(())
}

/// The lists of a [sweep] table, whether its keys are quoted paths or nested tables.
fn axes(table: Table, above: &[String], out: &mut Vec<Set>) -> Result<(), String> {
    for (key, inner) in table {
        let mut path = above.to_vec();
        path.extend(key.split('.').map(str::to_owned));
        match inner {
            Value::Table(inner) => axes(inner, &path, out)?,
            Value::Array(values) if !values.is_empty() => out.push(Set { path, values }),
            _ => return Err(format!("sweep: `{}`: expected a list of values", path.join("."))),
        }
    }
    Ok(())
}

impl Sweep {
    /// Reads the file's text; flags win over it.
    pub(super) fn read(
        text: &str,
        sets: &[Set],
        seeds: Option<&Seeds>,
        clients: Option<usize>,
    ) -> Result<Self, String> {
        let mut base: Table =
            text.parse().map_err(|error: toml::de::Error| proto::nearest::explain(&error.to_string()))?;
        let mut varied = Vec::new();
        if let Some(sweep) = base.remove("sweep") {
            let Value::Table(sweep) = sweep else { return Err("sweep: expected a table".into()) };
            axes(sweep, &[], &mut varied)?;
        }
        for set in sets {
            varied.retain(|known: &Set| known.path != set.path);
            varied.push(set.clone());
        }
        let simulation = base.remove("simulation").unwrap_or_else(|| Value::Table(Table::new()));
        let Value::Table(mut simulation) = simulation else {
            return Err("simulation: expected a table".into());
        };
        let own = simulation.remove("seeds");
        let named = own.map(|own| seeds_of(&own)).transpose()?;
        if let Some(Seeds(seeds)) = seeds.or(named.as_ref()) {
            varied.retain(|known| known.path != ["seed"]);
            let values = seeds.iter().map(|seed| Value::Integer(*seed as i64)).collect();
            varied.push(Set { path: vec!["seed".into()], values });
        }
        if let Some(clients) = clients {
            varied.retain(|known| known.path != ["simulation", "clients"]);
            simulation.insert("clients".into(), Value::Integer(clients as i64));
        }
        base.insert("simulation".into(), Value::Table(simulation));
        // What is compared stands first: of a sweep that is cut off some settings are there for all values.
        varied.sort_by_key(|set| set.path != [SETTINGS]);
        let count = varied.iter().try_fold(1_usize, |product, set| product.checked_mul(set.values.len()));
        if count.is_none_or(|count| count > MOST) {
            return Err(format!("sweep: more than {MOST} points"));
        }
        let mut points = vec![(base, Vec::new())];
        for set in &varied {
            points = vary(points, set)?;
        }
        let points: Vec<Point> = points.into_iter().map(finish).collect::<Result<_, _>>()?;
        let names: BTreeSet<&str> = points.iter().map(|point| point.name.as_str()).collect();
        if names.len() < points.len() {
            return Err("sweep: two points have the same values".into());
        }
        Ok(Self { points })
    }
}

fn seeds_of(value: &Value) -> Result<Seeds, String> {
    match value {
        Value::String(text) => text.parse(),
        Value::Array(list) => {
            let seed = |value: &Value| value.as_integer().and_then(|seed| u64::try_from(seed).ok());
            let seeds: Option<Vec<u64>> = list.iter().map(seed).collect();
            let wrong = || "simulation.seeds: expected a list of numbers of at least 0".to_owned();
            seeds.filter(|seeds| !seeds.is_empty()).map(Seeds).ok_or_else(wrong)
        }
        _ => Err("simulation.seeds: expected a list of numbers, or \"0..3\"".into()),
    }
}

type Draft = (Table, Vec<String>);

fn vary(points: Vec<Draft>, set: &Set) -> Result<Vec<Draft>, String> {
    let mut out = Vec::with_capacity(points.len() * set.values.len());
    for (table, names) in points {
        for (number, value) in set.values.iter().enumerate() {
            let (mut table, mut names) = (table.clone(), names.clone());
            if set.path == [SETTINGS] {
                names.push(lay_over(&mut table, value, number)?);
                out.push((table, names));
                continue;
            }
            put(&mut table, &set.path, value.clone())?;
            if set.values.len() > 1 {
                names.push(label(set, number));
            }
            out.push((table, names));
        }
    }
    Ok(out)
}

/// `lr=0.1`; a table goes by its kind where that tells it from the others.
fn label(set: &Set, number: usize) -> String {
    let key = match set.path.as_slice() {
        [.., above, last] if last == "kind" => above,
        [.., last] => last,
        [] => "",
    };
    let kind = |value: &Value| value.get("kind").and_then(Value::as_str).map(str::to_owned);
    let value = &set.values[number];
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Table(_) => {
            let own = kind(value).unwrap_or_default();
            let same = set.values.iter().filter(|other| kind(other).as_deref() == Some(&own)).count();
            if same == 1 { own } else { format!("{own}-{}", number + 1) }
        }
        other => other.to_string(),
    };
    let clean = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    format!("{key}={}", text.chars().map(clean).collect::<String>())
}

fn finish((mut table, names): Draft) -> Result<Point, String> {
    let name = names.join(",");
    let at = |problem: String| if name.is_empty() { problem } else { format!("point {name}: {problem}") };
    let Some(Value::Table(mut simulation)) = table.remove("simulation") else {
        return Err("simulation: expected a table".into());
    };
    let clients = simulation.remove("clients");
    if let Some((unknown, _)) = simulation.into_iter().next() {
        return Err(at(format!("simulation: unknown key `{unknown}`, expected `clients` or `seeds`")));
    }
    let counted = clients.as_ref().map(|clients| counted(clients).map_err(at)).transpose()?;
    let text = toml::to_string(&table).map_err(|error| at(error.to_string()))?;
    let spec = RunSpec::from_toml(&text).map_err(|error| at(error.to_string()))?;
    let nodes = spec.topology.as_ref().map(|topology| topology.nodes);
    if let (Some(clients), Some(nodes)) = (counted, nodes.filter(|nodes| counted != Some(*nodes))) {
        return Err(at(format!(
            "simulation.clients is {clients}, expected the {nodes} of `topology.nodes`, or nothing"
        )));
    }
    let missing = || "how many clients? Give --clients, or `clients` under [simulation]".to_owned();
    let clients = counted.or(nodes).ok_or_else(|| at(missing()))?;
    Ok(Point { name, spec, clients })
}

fn counted(clients: &Value) -> Result<usize, String> {
    let counted = clients.as_integer().and_then(|clients| usize::try_from(clients).ok()).filter(|n| *n > 0);
    counted.ok_or_else(|| format!("simulation.clients is {clients}, expected a number of at least 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
        name = 'x'
        rounds = 2
        [model]
        kind = 'mlp'
        [data]
        name = 'digits'
        partition = { kind = 'dirichlet', alpha = 0.5 }
        [simulation]
        clients = 20
    ";

    fn read(extra: &str, sets: &[&str], seeds: Option<&str>) -> Result<Vec<Point>, String> {
        let sets: Vec<Set> = sets.iter().map(|set| set.parse().unwrap()).collect();
        let seeds = seeds.map(|seeds| seeds.parse::<Seeds>().unwrap());
        Sweep::read(&format!("{FILE}\n{extra}"), &sets, seeds.as_ref(), None).map(|sweep| sweep.points)
    }

    fn names(points: &[Point]) -> Vec<&str> {
        points.iter().map(|point| point.name.as_str()).collect()
    }

    #[test]
    fn one_point_is_the_file_with_its_settings() {
        let points = read("", &["local.lr=0.5", "model.hidden=[8, 4]", "cohort.size=3"], None).unwrap();
        assert_eq!((points.len(), points[0].name.as_str(), points[0].clients), (1, "", 20));
        assert_eq!((points[0].spec.local.lr, points[0].spec.cohort.size), (0.5, Some(3)));
        assert_eq!(points[0].spec.model, proto::spec::ModelSpec::Mlp { hidden: vec![8, 4] });
    }

    #[test]
    fn values_multiply() {
        let points =
            read("", &["algorithm.kind=fedavg,scaffold", "simulation.clients=5,6"], Some("0..2")).unwrap();
        assert_eq!(points.len(), 8);
        assert_eq!(
            names(&points)[..3],
            [
                "algorithm=fedavg,clients=5,seed=0",
                "algorithm=fedavg,clients=5,seed=1",
                "algorithm=fedavg,clients=6,seed=0"
            ]
        );
        assert_eq!(
            (points[7].spec.algorithm.kind.as_str(), points[7].clients, points[7].spec.seed),
            ("scaffold", 6, 1)
        );
    }

    #[test]
    fn a_file_can_hold_its_sweep() {
        let extra = "seeds = [3, 4]\n[sweep]\nalgorithm = [{kind='fedavg'}, {kind='fedprox', prox=0.2}, {kind='fedprox', prox=0.3}]\ndata.partition.alpha = [0.1, 1]";
        let points = read(extra, &[], None).unwrap();
        assert_eq!(points.len(), 12);
        let third = points.iter().find(|point| point.name == "algorithm=fedprox-3,alpha=1,seed=4").unwrap();
        assert_eq!(third.spec.algorithm.params["prox"], serde_json::json!(0.3));
        // Flags win.
        let points = read(extra, &["data.partition.alpha=7"], Some("9")).unwrap();
        assert_eq!(names(&points), ["algorithm=fedavg", "algorithm=fedprox-2", "algorithm=fedprox-3"]);
        assert_eq!(points[0].spec.seed, 9);
    }

    #[test]
    fn mistakes_are_named_before_anything_runs() {
        for (extra, sets, want) in [
            ("", vec!["local.lrr=1"], "did you mean `lr`"),
            ("", vec!["algorithm.kind=fedavg,scafold"], "point algorithm=scafold: algorithm.kind"),
            ("", vec!["rounds.x=1"], "`rounds` is no table"),
            ("client = 3", vec![], "unknown key `client`"),
            ("seeds = [-1]", vec![], "simulation.seeds"),
            ("[sweep]\nrounds = 3", vec![], "sweep: `rounds`: expected a list"),
            ("", vec!["seed=1,1"], "same values"),
            ("", vec!["simulation.clients=0"], "at least 1"),
        ] {
            let error = read(extra, &sets, None).unwrap_err();
            assert!(error.contains(want), "{extra} {sets:?}: {error}");
        }
        let error = Sweep::read(&FILE.replace("clients = 20", ""), &[], None, None).unwrap_err();
        assert!(error.contains("--clients"), "{error}");
        for wrong in ["lr", "=3", "a..b=3", "a="] {
            assert!(wrong.parse::<Set>().is_err(), "{wrong}");
        }
        for wrong in ["", "3..3", "x", "-1"] {
            assert!(wrong.parse::<Seeds>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_experiments_are_read() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/experiments");
        for (file, points) in [
            ("sweep-cifar10.toml", 72),
            ("sweep-cifar10-reduced.toml", 64),
            ("sweep-cifar10-cpu.toml", 24),
            ("sweep-cifar10-sharpness.toml", 10),
            ("sweep-cifar10-long.toml", 2),
            ("sweep-cifar10-graphs.toml", 9),
            ("sweep-cifar10-predictor.toml", 5),
            ("sweep-mnist.toml", 14),
            ("personal-mnist.toml", 8),
            ("fedslr-mnist.toml", 5),
        ] {
            let text = std::fs::read_to_string(folder.join(file)).unwrap();
            let sweep =
                Sweep::read(&text, &[], None, None).unwrap_or_else(|problem| panic!("{file}: {problem}"));
            assert_eq!(sweep.points.len(), points, "{file}");
        }
    }

    #[test]
    fn commas_inside_a_value_do_not_split_it() {
        assert_eq!(split("[1,2],{a=1,b=2},'x,y',z"), ["[1,2]", "{a=1,b=2}", "'x,y'", "z"]);
    }
}
