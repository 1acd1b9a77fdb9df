//! An observer's memory against peers that answer, die, come back, lie and babble.

use super::*;
use proto::v1::PeerMember;

fn member(name: &str, incarnation: u64, (live, reachable): (bool, bool)) -> PeerSummary {
    PeerSummary {
        name: name.into(),
        address: format!("{name}:1"),
        member: Some(PeerMember { id: 0, incarnation }),
        live,
        reachable,
    }
}

fn reply(name: &str, members: Vec<PeerSummary>) -> PeerStatusReply {
    let own = members.iter().find(|member| member.name == name).and_then(|member| member.member);
    PeerStatusReply {
        name: name.into(),
        run: "ring".into(),
        phase: "training".into(),
        round: 7,
        rounds: 9,
        w: 1.0,
        metrics: r#"{"consensus_distance":0.5,"consensus_predicted":null,"mass":3.0,"bytes_sent":80}"#.into(),
        member: own,
        members,
        balanced: true,
        ..PeerStatusReply::default()
    }
}

fn at(name: &str) -> Place {
    Place { address: format!("{name}:1"), name: Some(name.into()) }
}

const UP: (bool, bool) = (true, true);

/// Three peers who know each other, after the first look.
fn three() -> Sight {
    let mut sight = Sight::new(&["first:1".into()]);
    let first = sight.begin(1_000);
    assert_eq!(first, [Place { address: "first:1".into(), name: None }]);
    let members = || vec![member("a", 1, UP), member("b", 1, UP), member("c", 1, UP)];
    sight.heard(&first[0], &reply("a", members()));
    assert_eq!(sight.members(), [at("a"), at("b"), at("c")], "who answered without a name is asked again");
    assert_eq!(sight.peers().count(State::Alive), 0, "nobody has spoken for itself yet");
    for name in ["a", "b", "c"] {
        sight.heard(&at(name), &reply(name, members()));
    }
    sight
}

fn states(sight: &Sight) -> Vec<(String, State)> {
    sight.peers().peers.into_iter().map(|peer| (peer.name, peer.state)).collect()
}

fn state(sight: &Sight, name: &str) -> State {
    states(sight).into_iter().find(|(known, _)| known == name).unwrap().1
}

#[test]
fn who_answers_is_shown_as_it_says() {
    let sight = three();
    let peers = sight.peers();
    assert_eq!((peers.run.as_deref(), peers.count(State::Alive), peers.ignored), (Some("ring"), 3, 0));
    let a = &peers.peers[0];
    assert_eq!((&*a.name, a.incarnation, a.last_heard_s), ("a", 1, Some(0.0)));
    assert_eq!((a.said.round, a.said.bytes_sent, a.said.mass), (Some(7), Some(80), Some(3.0)));
    assert_eq!((a.said.consensus_distance, a.said.consensus_predicted), (Some(0.5), None));
    assert!(!peers.finished());
    let text = peers.text();
    for want in ["ring: 3 alive", "7 of 9", "5.000e-1", "a:1", "0.0 s ago"] {
        assert!(text.contains(want), "{want}: {text}");
    }
}

#[test]
fn who_dies_is_suspect_then_gone_and_may_come_back() {
    let mut sight = three();
    assert_eq!(sight.begin(3_500), [], "the first address is not needed any more");
    sight.heard(&at("a"), &reply("a", vec![member("a", 1, UP), member("c", 1, (true, false))]));
    sight.silent(&at("c"), "connection refused");
    let c = sight.peers().peers[2].clone();
    assert_eq!((c.state, c.last_heard_s, c.suspected_by), (State::Suspect, Some(2.5), vec!["a".to_owned()]));
    assert_eq!(c.trouble.as_deref(), Some("connection refused"));
    assert_eq!(c.said.round, Some(7), "what it said last");

    sight.begin(4_500);
    sight.heard(&at("a"), &reply("a", vec![member("a", 1, UP), member("c", 1, (false, false))]));
    assert_eq!(state(&sight, "c"), State::Left);
    // For ever, whoever has not heard of it yet.
    sight.heard(&at("b"), &reply("b", vec![member("b", 1, UP), member("c", 1, UP)]));
    assert_eq!(state(&sight, "c"), State::Left);
    assert!(!sight.members().contains(&at("c")), "asked now and then only");

    sight.heard(&at("a"), &reply("a", vec![member("a", 1, UP), member("c", 2, UP)]));
    assert_eq!(state(&sight, "c"), State::Suspect, "a new life that has not spoken yet");
    sight.heard(&at("c"), &reply("c", vec![member("c", 2, UP)]));
    assert_eq!((state(&sight, "c"), sight.peers().peers[2].incarnation), (State::Alive, 2));
}

#[test]
fn who_answers_here_but_not_there_is_suspect() {
    let mut sight = three();
    sight.heard(&at("a"), &reply("a", vec![member("a", 1, UP), member("b", 1, (true, false))]));
    assert_eq!(state(&sight, "b"), State::Suspect);
    // Whoever does not answer accuses nobody.
    sight.silent(&at("a"), "");
    assert_eq!(state(&sight, "b"), State::Alive);
}

#[test]
fn a_peer_is_believed_about_itself_alone() {
    let mut sight = three();
    // Of another's life: the other one knows better.
    sight.heard(&at("a"), &reply("a", vec![member("a", 1, UP), member("b", 99, (false, false))]));
    sight.heard(&at("b"), &reply("b", vec![member("b", 1, UP)]));
    let b = sight.peers().peers[1].clone();
    assert_eq!((b.state, b.incarnation, b.suspected_by), (State::Suspect, 1, vec!["a".to_owned()]));
    sight.heard(&at("a"), &reply("a", vec![member("a", 1, UP)]));
    assert_eq!(state(&sight, "b"), State::Alive);
    // Of its address.
    let mut moved = member("b", 1, UP);
    moved.address = "elsewhere:1".into();
    sight.heard(&at("a"), &reply("a", vec![member("a", 1, UP), moved.clone()]));
    assert!(sight.members().contains(&at("b")));
    sight.silent(&at("b"), "");
    sight.heard(&at("a"), &reply("a", vec![member("a", 1, UP), moved]));
    let elsewhere = Place { address: "elsewhere:1".into(), name: Some("b".into()) };
    assert!(sight.members().contains(&elsewhere), "it does not answer: perhaps it moved");
    // Who answers as somebody else, or of another run, has not answered.
    sight.heard(&at("a"), &reply("b", vec![member("b", 1, UP)]));
    assert_eq!(state(&sight, "a"), State::Suspect);
    let other = PeerStatusReply { run: "other".into(), ..reply("c", vec![member("c", 1, UP)]) };
    sight.heard(&at("c"), &other);
    let c = sight.peers().peers[2].clone();
    assert!(c.state == State::Suspect && c.trouble.is_some_and(|why| why.contains("another run")));
}

#[test]
fn babble_is_bounded_and_harmless() {
    let mut sight = three();
    let mut members: Vec<PeerSummary> = (0..5_000).map(|at| member(&format!("x{at}"), 1, UP)).collect();
    members.extend(["", "<script>", "a/b", "\u{1b}[2J"].map(|name| member(name, 1, UP)));
    let evil = PeerStatusReply {
        phase: "\u{1b}[2J<script>".repeat(1_000),
        metrics: "{\"consensus_distance\":\"\",\"mass\":1e999".into(),
        w: f64::NAN,
        holding: f64::INFINITY,
        ..reply("a", [vec![member("a", 1, UP)], members].concat())
    };
    sight.heard(&at("a"), &evil);
    sight.heard(&at("a"), &PeerStatusReply { metrics: "[1,2".into(), ..evil.clone() });
    let peers = sight.peers();
    assert_eq!(peers.peers.len(), MOST);
    assert!(peers.ignored > 100 && peers.ignored <= MOST, "{}", peers.ignored);
    let text = peers.text();
    assert!(!text.contains('\u{1b}') && text.contains("ignored"), "{}", peers.headline());
    assert!(text.len() < 600_000, "{}", text.len());
    let a = peers.peers.iter().find(|peer| peer.name == "a").unwrap();
    assert_eq!((a.said.w, a.said.holding, a.said.mass), (None, None, None));
    let html = page::html::peers(&peers);
    assert!(!html.contains("<script") && html.contains("&lt;script&gt;"));
    assert!(serde_json::to_string(&peers).unwrap().len() < 1_000_000);
    assert!(peers.metrics().contains("starling_peers{state=\"suspect\"}"));
}
