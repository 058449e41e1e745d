//! The events of notices (PR-11).

use super::{ANN, ROOM, owner};
use crate::derive::{stats, told};
use crate::link::Notice;

fn notice(name: &str) -> Notice {
    Notice {
        name: name.into(),
        jid: Some("bob@here.example".into()),
        room: Some(ROOM.into()),
        occupant: Some(format!("{ROOM}/B<b")),
        ..Notice::default()
    }
}

fn tells(notice: &Notice) -> Vec<(&'static str, String)> {
    told(notice).into_iter().map(|(occurrence, stanza)| (occurrence.event.name, stanza)).collect()
}

#[test]
fn pr_11_each_notice_tells_its_events_with_a_stanza_that_shows_it() {
    let shows = |name: &str, change: &dyn Fn(&mut Notice), expected: &[(&str, &str)]| {
        let mut notice = notice(name);
        change(&mut notice);
        let told = tells(&notice);
        assert_eq!(told.len(), expected.len(), "{name}: {told:?}");
        for ((event, stanza), (expected, part)) in told.iter().zip(expected) {
            assert_eq!(event, expected, "{name}");
            assert!(stanza.contains(part), "{name}: {stanza}");
            assert!(crate::protocol::Stanza::new(stanza.as_str()).element().is_ok(), "{stanza}");
        }
        notice.snapshot = true;
        assert_eq!(told_count(&notice), 0, "{name}: a snapshot says what is");
    };
    let as_is: &dyn Fn(&mut Notice) = &|_| {};
    let said =
        "<presence from='bob@here.example/p' to='desk@rooms.here.example/B'><show>dnd</show></presence>";
    let gone = "<presence type='unavailable' from='bob@here.example/p'/>";
    shows(
        "session-down",
        &|n| n.jid = Some(ANN.into()),
        &[("es_END", "<presence xmlns='jabber:client' type='unavailable' from='ann@here.example/pc'")],
    );
    shows(
        "authenticated",
        &|n| n.mechanism = Some("SCRAM-SHA-1".into()),
        &[(
            "e_AUTH",
            "type='set' from='bob@here.example'><auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'/>",
        )],
    );
    shows("login-failed", as_is, &[("e_AUTH", "type='error'")]);
    shows("registered", as_is, &[("e_REGISTER", "<username>bob</username>")]);
    shows(
        "room-created",
        as_is,
        &[("onAfterRoomCreate", "<presence xmlns='jabber:client' from='desk@rooms.here.example'/>")],
    );
    shows("room-destroyed", as_is, &[("onDestroy", "type='unavailable' from='desk@rooms.here.example'")]);
    shows(
        "room-closing",
        &|n| n.reason = Some("<over>".into()),
        &[("onClose", "<destroy><reason>&lt;over&gt;</reason></destroy>")],
    );
    shows("room-configured", as_is, &[("onAfterMetaInfoSet", "muc#owner")]);
    shows(
        "room-configured",
        &|n| n.stanza = Some(owner("set", "<x xmlns='jabber:x:data'/>")),
        &[("onAfterMetaInfoSet", "jabber:x:data")],
    );
    shows(
        "occupant-joined",
        as_is,
        &[
            ("onAfterChangeUser", "to='desk@rooms.here.example/B&lt;b'"),
            ("onAfterJoin", "from='bob@here.example'"),
        ],
    );
    shows(
        "occupant-joined",
        &|n| n.stanza = Some(said.into()),
        &[("onAfterChangeUser", "dnd"), ("onAfterJoin", "dnd")],
    );
    shows(
        "occupant-left",
        &|n| n.stanza = Some(gone.into()),
        &[("onAfterChangeUser", "unavailable"), ("onLeave", "here.example/p")],
    );
    shows(
        "occupant-left",
        &|n| n.stanza = Some(said.into()),
        &[("onAfterChangeUser", "unavailable"), ("onLeave", "unavailable")],
    );
    // A nickname's change is one event, though the list of occupants needs both halves.
    let halved: &dyn Fn(&mut Notice) = &|n| n.reason = Some("nick changed".into());
    shows("occupant-left", halved, &[]);
    shows("occupant-joined", halved, &[]);
    shows(
        "occupant-changed",
        &|n| (n.reason, n.stanza) = (Some("nick".into()), Some(said.into())),
        &[("onAfterChangeUser", "dnd")],
    );
    shows(
        "occupant-changed",
        &|n| (n.reason, n.value) = (Some("role".into()), Some("visitor".into())),
        &[("onAfterChangeUser", "<item nick='B&lt;b' role='visitor'/>")],
    );
    shows("occupant-changed", &|n| n.stanza = Some("<garbage".into()), &[("onAfterChangeUser", "<presence")]);
    shows(
        "affiliation-changed",
        &|n| {
            (n.value, n.stanza) =
                (Some("member".into()), Some("<iq from='ann@here.example/pc' type='set'/>".into()))
        },
        &[(
            "onAfterChangeAffiliation",
            "from='ann@here.example/pc' to='desk@rooms.here.example'><query xmlns='http://jabber.org/protocol/muc#admin'><item jid='bob@here.example' affiliation='member'>",
        )],
    );
    shows(
        "affiliation-changed",
        &|n| n.value = Some("none".into()),
        &[("onAfterRemoveAffiliation", "affiliation='none'")],
    );
    shows(
        "subject-changed",
        &|n| n.value = Some("a & b".into()),
        &[("onAfterSubject", "<subject>a &amp; b</subject>")],
    );
    shows("invited", as_is, &[("onAfterInvite", "<invite to='bob@here.example'/>")]);
    shows("services-reconfigured", &|n| n.jid = None, &[("onServiceReconfig", "<presence")]);
    shows("session-up", as_is, &[]);
    shows("hook-failed", as_is, &[]);
    shows("session-down", &|n| n.jid = None, &[]);
    shows("room-created", &|n| n.room = None, &[]);
}

fn told_count(notice: &Notice) -> usize {
    told(notice).len()
}

#[test]
fn pr_7_statistics_are_written_as_xep_0039_has_them() {
    assert_eq!(
        stats("a'b.example", [("users/online", "users", 2), ("time/uptime", "seconds", 7)]),
        "<iq xmlns='jabber:client' type='result' from='a&#39;b.example'><query xmlns='http://jabber.org/protocol/stats'>\
         <stat name='users/online' units='users' value='2'/><stat name='time/uptime' units='seconds' value='7'/></query></iq>"
    );
}
