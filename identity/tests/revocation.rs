//! Lists of revoked certificates: who is believed, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

use identity::{Authority, Bundle, Revocations, Revoked, Role, Validity};

#[test]
fn a_list_is_believed_only_as_it_was_signed() {
    let authority = Authority::create("test", Validity::lasting(1_000, 9_000)).unwrap();
    let list = authority.revoke(&Revocations::default(), (Role::Peer, "p"), 1_500).unwrap();
    let list = authority.revoke(&list, (Role::Worker, "p"), 1_700).unwrap();
    assert_eq!(Revocations::read(list.text(), authority.certificate()).unwrap(), list);
    assert_eq!((list.number(), list.names(Role::Peer).collect::<Vec<_>>()), (2, vec!["p"]));
    for at in 0..list.text().len() - 1 {
        let mut text = list.text().as_bytes().to_vec();
        text[at] ^= 1;
        let text = String::from_utf8_lossy(&text).into_owned();
        // Hexadecimal digits may be written in either case.
        let read = Revocations::read(&text, authority.certificate());
        assert!(
            read.is_err()
                || read.is_ok_and(|read| read.number() == 2 && read.until(Role::Peer, "p") == Some(1_500)),
            "byte {at}"
        );
    }
    let other = Authority::create("test", Validity::lasting(1_000, 9_000)).unwrap();
    let refused = Revocations::read(list.text(), other.certificate()).unwrap_err();
    assert!(refused.contains("not signed by"), "{refused}");
    assert!(Revocations::read("", authority.certificate()).is_err());
}

#[test]
fn what_was_issued_up_to_the_moment_is_refused_and_a_newer_list_counts() {
    let authority = Authority::create("test", Validity::lasting(1_000, 9_000)).unwrap();
    let issue = |at| {
        let validity = Validity::lasting(at, 1_000);
        Bundle::issue(&authority, Role::Peer, "p", (&[], validity)).unwrap().identity().clone()
    };
    let revoked = Revoked::default();
    let first = authority.revoke(&Revocations::default(), (Role::Peer, "p"), 1_500).unwrap();
    let second = authority.revoke(&first, (Role::Peer, "q"), 1_500).unwrap();
    assert!(revoked.check(&issue(1_500)).is_ok());
    assert!(revoked.take(second.clone()) && !revoked.take(first) && !revoked.take(second));
    assert!(revoked.check(&issue(1_500)).unwrap_err().contains("peer `p` was revoked"));
    assert!(revoked.check(&issue(1_501)).is_ok());
}
