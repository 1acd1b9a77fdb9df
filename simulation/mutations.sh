#!/usr/bin/env bash
# Deliberate defects in the source of the machines, each with the invariant that finds it. A temporary
# copy of HEAD is changed by one substitution at a time and must then fail. (Defects at the seams of
# the simulation need no patch: `cargo run -p simulation --example mutations`.)
#
# ONLY="silence|disk" runs those whose names match; SEEDS is how many each gets (1500).
# Ends with code 1 if a defect survives, and with 2 if a substitution no longer fits the source.
set -euo pipefail

root=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
copy=$(mktemp -d)/starling
export CARGO_TARGET_DIR=${MUTATIONS_TARGET_DIR:-$root/target/mutations}
git -C "$root" worktree add --quiet --detach "$copy" HEAD
trap 'git -C "$root" worktree remove --force "$copy"' EXIT
cd "$copy"
survived=0

# The whole workspace each time: a part of it would be built with other features of its dependencies.
soak() { timeout 900 "$CARGO_TARGET_DIR/debug/examples/soak" --seeds "${SEEDS:-1500}"; }
tests() { cargo test --quiet --workspace --lib "$1"; }

# mutant NAME FILE PERL-SUBSTITUTION EXPECTED [COMMAND...]: EXPECTED must be in the failing output.
mutant() {
    local name=$1 file=$2 change=$3 expected=$4 output
    shift 4
    [[ $name =~ ${ONLY:-} ]] || return 0
    perl -0pi -e "$change" "$file"
    if git diff --quiet; then
        echo "$name: the substitution does not fit $file any more" >&2
        exit 2
    fi
    if ! cargo build --quiet --workspace --example soak 2>build.log; then
        cat build.log >&2
        echo "$name: does not compile" >&2
        exit 2
    fi
    if output=$("${@:-soak}" 2>&1); then
        echo "SURVIVED  $name"
        survived=1
    elif grep -qE "$expected" <<<"$output"; then
        echo "caught    $name: $(grep -oE "$expected" <<<"$output" | head -1), $(grep -oE 'under [a-z]+, seed [0-9]+' <<<"$output" | head -1)"
    else
        echo "SURVIVED  $name: failed, but not by $expected"
        tail -20 <<<"$output"
        survived=1
    fi
    git checkout --quiet -- .
}

machine=coordinator/src/machine
mutant "a counted update is accepted again" $machine/mod.rs \
    's/(Some\(Member::Counted\(_\)\) => Decision::)Duplicate/$1Accept/' 'invariant: "(once|aggregate)"'
mutant "an old deadline closes a round that was opened again" $machine/mod.rs \
    's/let due = self.now >= self.deadline_at/let due = true/' 'invariant: "patient"'
mutant "a worker is asked again after its update was folded" $machine/membership.rs \
    's/Some\(Member::Counted\(_\) \| Member::Declined/Some(Member::Counted(_)) => self.assign(worker, out),\n Some(Member::Declined/' \
    'invariant: "balance"'
mutant "everybody is told that it was counted" $machine/round.rs \
    's/let included = matches!\(member, Member::Counted\(_\)\);/let included = true;/' \
    'invariant: "(confirmed|balance|nothing is lost)"'
mutant "substitutes are asked before the disk knows them" $machine/round.rs \
    's/(Member::Training\)\)\);\n)        out.push\(Action::Persist\);/$1/' 'invariant: "announced"'
mutant "a deadline is not armed again" $machine/round.rs \
    's/        self.arm_deadline\(out\);\n//' 'invariant: "armed"'
mutant "rejections are not counted" $machine/round.rs 's/\*strikes \+= 1;/*strikes += 0;/' \
    'invariant: "quarantine"'
mutant "impossible evaluations are summed" $machine/round.rs 's/if possible && [^{]*\{/if true {/' \
    'invariant: "evaluation"|overflow'
mutant "newcomers are no members" $machine/membership.rs 's/self.members.extend\(members\);/drop(members);/' \
    'invariant: "balance"'
mutant "a lost worker is called stuck" $machine/stragglers.rs 's/&& self.is_connected\(worker\)//' \
    'invariant: "stragglers"'
mutant "a lost worker is never given up" $machine/membership.rs \
    's/Presence::Gone\);\n/Presence::LostAt(self.now));\n/' 'invariant: "armed"'
mutant "client state follows any closure" worker/src/client_state/mod.rs \
    's/if included \{/if included || round > 0 {/' 'invariant: "(confirmed|balance|nothing is lost)"'
mutant "an assignment does not confirm" worker/src/client_state/mod.rs \
    's/Some\(pending.round\) == committed => self.promote\(pending\)/false => self.promote(pending)/' \
    'invariant: "nothing is lost"'
mutant "silence is not looked for" worker/src/session/link.rs \
    's/        self.arm\(Timer::Silence, now \+ silence, out\);\n//' 'invariant: "(bounded|answered)"'
mutant "what the disk did not take is believed" worker/src/client_state/store.rs \
    's/self.records.remove\(run\);\n        \}\n        written/}\n        written/' \
    'what_the_disk_did_not_take_is_not_believed' tests client_state
mutant "refusals end a run although somebody can be asked" $machine/round.rs \
    's/late.is_empty\(\) && substitutes.is_empty\(\) && self.shortfalls >= ATTEMPTS/late.is_empty() \&\& self.attempt >= ATTEMPTS/' \
    'refusals_do_not_end_a_run_while_somebody_can_be_asked' tests machine
mutant "a worker in quarantine is waited for" $machine/membership.rs \
    's/if self.phase == Phase::Training && awaited \{/if false {/' \
    'another_run_put_into_quarantine_is_not_waited_for' tests machine

exit $survived
