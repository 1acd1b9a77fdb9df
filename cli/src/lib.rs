//! The command line: one file per subcommand, and what they share.
//!
//! Reading order: `exit` (how a command fails), `client` (how it asks a coordinator), `config` and
//! `life` (what the long-lived processes have in common), then any subcommand.

mod audit;
mod bench;
mod ca;
mod client;
mod compare;
mod config;
mod coordinator;
mod daemon;
mod demo;
mod doctor;
mod evaluate;
mod exit;
mod fleet;
mod host;
mod identity;
mod life;
mod log;
mod memory;
mod output;
mod peer;
mod privacy;
mod process;
mod progress;
mod run;
#[cfg(test)]
mod samples;
mod simulate;
mod token;
mod topology;
mod worker;

use clap::{Parser, Subcommand};
use exit::{Code, Failure};
use page::{describe, events, plot, table};
use std::process::ExitCode;

/// Trains one model on many machines that keep their own data.
#[derive(Debug, Parser)]
#[command(name = "starling", version, max_term_width = 110, after_long_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    // Help texts stand on the arguments of each.
    Demo(Box<demo::Args>),
    Coordinator(coordinator::Args),
    Worker(worker::Args),
    Peer(peer::Args),
    Run(run::Args),
    Ca(ca::Args),
    Token(token::Args),
    Identity(identity::Args),
    Audit(audit::Args),
    Topology(topology::Args),
    Privacy(Box<privacy::Args>),
    Doctor(doctor::Args),
    Simulate(simulate::Args),
    Compare(compare::Args),
    Evaluate(evaluate::Args),
    Bench(bench::Args),
}

/// Parses the arguments, does what they ask, and says how it went.
pub fn main() -> ExitCode {
    memory::settle();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { Code::Usage.into() } else { ExitCode::SUCCESS };
            // Nothing is left to do when not even the usage can be printed.
            let _ = error.print();
            return code;
        }
    };
    let done = match cli.command {
        Command::Demo(args) => demo::main(&args),
        Command::Coordinator(args) => coordinator::main(&args),
        Command::Worker(args) => worker::main(args),
        Command::Peer(args) => peer::main(args),
        Command::Run(args) => run::main(args),
        Command::Ca(args) => ca::main(&args),
        Command::Token(args) => token::main(args),
        Command::Identity(args) => identity::main(args),
        Command::Audit(args) => audit::main(&args),
        Command::Topology(args) => topology::main(&args),
        Command::Privacy(args) => privacy::main(*args),
        Command::Doctor(args) => doctor::main(&args),
        Command::Simulate(args) => {
            memory::keep();
            simulate::main(&args)
        }
        Command::Compare(args) => compare::main(&args),
        Command::Evaluate(args) => evaluate::main(&args),
        Command::Bench(args) => bench::main(args),
    };
    done.map_or_else(Failure::report, |()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_people_type() {
        for line in [
            "demo",
            "demo --workers 3 --rounds 2 --alpha 0.3 --algorithm scaffold --out x --seed 1 --json",
            "demo --partition iid --model mlp --lr 0.1 --epochs 2",
            "coordinator --config c.toml --listen 127.0.0.1:0 --address-file a --log-format json",
            "worker --config w.toml --name a --coordinator http://127.0.0.1:7077",
            "demo --mode decentralised --workers 8 --algorithm dfedavgm --topology ring",
            "worker list --json",
            "peer --config p.toml --listen 127.0.0.1:0",
            "peer status --peer 127.0.0.1:7079 --identity o.pem --json",
            "peer export --identity o.pem --to m.safetensors",
            "peer consensus --identity o.pem --to m.safetensors --force --json",
            "peer leave --identity o.pem",
            "peer observe --identity o.pem --peer 127.0.0.1:7079,10.0.0.2:7079 --every 0.5 --page 127.0.0.1:0",
            "peer observe --identity o.pem --once --json",
            "ca observer --dir d --name olga --to o.pem",
            "coordinator --config c.toml --page 127.0.0.1:0 --page-address-file p",
            "ca peer --dir d --name peer-1 --to p.pem",
            "worker release a",
            "worker devices --json",
            "bench train --models mlp,cnn-32 --batch 10,50 --threads 1,2 --device cpu --json",
            "bench train --against-torch --python python3.11 --seconds 1.5",
            "bench kernels --threads 2 --parameters 1M --json",
            "run submit run.toml --watch",
            "run list --coordinator http://10.0.0.1:7077",
            "run watch a-1 --json",
            "run export a-1 --to m.safetensors --force",
            "run plot a-1 --to p.svg",
            "run cancel a-1",
            "ca init --dir d --operator anna --days 30 --json",
            "token create --role observer --name carl --valid 12h --identity o.pem",
            "identity list --json",
            "identity revoke worker w-1 --identity o.pem",
            "identity enrol --token starling1.00112233445566aa.00112233445566aa00112233445566aa.0000000000000000000000000000000000000000000000000000000000000000 --to o.pem",
            "identity show o.pem",
            "audit --from 3 --identity o.pem",
            "privacy ledger show --json",
            "privacy ledger export mnist --to l.jsonl",
            "privacy ledger reset mnist --reason replaced",
            "doctor --coordinator-config c.toml --worker-config w.toml --json",
            "doctor --coordinator https://a:1 --identity o.pem",
            "topology list --json",
            "topology report --kind one-peer-exponential --n 16 --svg g.svg --json",
            "topology report --edges e.txt --set weights=given --mode push --loss 0.1 --no-ledger",
            "bench gossip --peers 4 --parameters 1M --topology ring --algorithm dfedavg --json",
            "privacy epsilon --noise-multiplier 1.1 --sampling-rate 0.01 --rounds 1000 --delta 1e-6 --unit client --accountant all",
            "privacy noise --epsilon 2 --delta 1e-5 --rounds 100 --adjacency replace_one --sample-size 10 --population 100",
            "privacy rounds --epsilon 2 --delta 1e-5 --noise-multiplier 1.1 --mechanism laplace --json",
            "privacy curve --noise-multiplier 1.1 --rounds 100 --delta 1e-5 --to x.svg --force",
            "privacy long-run --clip 1 --clients 100 --steps 10 --learning-rate 0.1 --smoothness 1 --noise 1 --rounds 2 --delta 1e-5 --published",
            "privacy verify ledger.jsonl --delta 1e-6 --claimed 2",
            "privacy audit --noise-multiplier 1 --rounds 2 --trials 100 --mutation no-clip",
            "simulate r.toml --set algorithm.kind=fedavg,scaffold --seeds 0..3 --clients 1000 --out o --json",
            "simulate r.toml --workers 10 --data mnist=d --data d --threads 2 --checkpoint 0",
            "compare a b --target 0.8 --last 5 --plot p.svg --json",
            "evaluate --model m.safetensors --run r.toml --data d --top 3 --json",
            "bench simulate --clients 1000 --fraction 0.1 --memory 100,1000",
            "bench round --workers 2,10 --parameters 100k,1M --rounds 3",
        ] {
            let args = std::iter::once("starling").chain(line.split(' '));
            Cli::try_parse_from(args).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn what_is_refused() {
        for (line, want) in [
            ("demo --workers 0", "--workers"),
            ("demo --alpha 0.3 --partition iid", "cannot be used with"),
            ("demo --examples 10 --data x", "cannot be used with"),
            ("demo --partition dirichlet", "dirichlet:0.3"),
            ("worker", "--config"),
            ("peer", "--config"),
            ("peer observe --identity o.pem --every 0", "0.1 to 3600 seconds"),
            ("peer observe --identity o.pem --once --page 127.0.0.1:0", "cannot be used with"),
            ("peer observe --identity o.pem --insecure", "--page"),
            ("worker list extra", "extra"),
            ("run export a-1", "--to"),
            ("bench round --parameters 10X", "10X"),
            ("bench train --python python3", "--against-torch"),
            ("bench train --seconds 0", "seconds above 0"),
            ("doctor --json", "--worker-config"),
            ("topology report", "--kind"),
            ("privacy epsilon --noise-multiplier 0 --rounds 1 --delta 0.1", "a number from 1e-3 to 1e9"),
            ("privacy epsilon --noise-multiplier 1 --rounds 1 --delta 1", "a number from 0 to below 1"),
            ("privacy epsilon --noise-multiplier 1 --rounds 0 --delta 0.1", "--rounds"),
            ("privacy epsilon --noise-multiplier 1 --rounds 1 --delta 0.1 --adjacency add", "`add_remove`"),
            ("privacy epsilon --noise-multiplier 1 --rounds 1 --delta 0.1 --accountant prv", "`contour`"),
            ("privacy noise --epsilon 1 --delta 0.1 --rounds 1 --sample-size 3", "--population"),
            ("privacy audit --noise-multiplier 1 --confidence 1", "below 1"),
            ("simulate", "<FILE>"),
            ("simulate r.toml --seeds x", "0..3"),
            ("simulate r.toml --set lr", "KEY=VALUE"),
            ("compare", "<OUT>"),
            ("compare a --target 80", "0.8"),
            ("runs", "run"),
        ] {
            let args = std::iter::once("starling").chain(line.split(' '));
            let error = Cli::try_parse_from(args).expect_err(line).to_string();
            assert!(error.contains(want), "{line}: {error}");
        }
    }
}
