//! The page of all peers of a decentralised run.

use super::frame;
use crate::peers::{HEADING, Peers, State};
use maud::html;

/// The peers as an observer sees them.
pub fn peers(peers: &Peers) -> String {
    let title = peers.run.as_deref().unwrap_or("peers");
    let body = html! {
        nav { a href="/peers.json" { "JSON" } a href="/metrics" { "metrics" } }
        h1 { (title) }
        p { (peers.headline()) }
        table {
            tr { @for name in HEADING { th { (name) } } }
            @for peer in &peers.peers {
                tr class=(match peer.state { State::Alive => "", State::Suspect => "bad", State::Left => "dim" }) {
                    @for cell in peer.cells() { td class="w" { (cell) } }
                }
            }
        }
        @for peer in peers.peers.iter().filter(|peer| peer.state == State::Suspect) {
            p class="dim" {
                (peer.name) ": " (peer.trouble.as_deref().unwrap_or("answers here"))
                @if !peer.suspected_by.is_empty() { "; not reached by " (peer.suspected_by.join(", ")) }
            }
        }
    };
    frame(title, true, &body)
}
