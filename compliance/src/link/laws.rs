//! Laws of the wire: what was encoded is decoded the same, and nothing a peer sends makes the decoder panic or read past its frame.

use super::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "\\PC{1,24}", Just("\u{202e}שלום\u{1F600}\0".to_owned())]
}

fn name() -> impl Strategy<Value = String> {
    "[a-z]{1,8}(@[a-z]{1,8})?"
}

fn recipient() -> impl Strategy<Value = Recipient> {
    (name(), option::of(text()), vec(text(), 0..3)).prop_map(|(bare, occupant, resources)| Recipient {
        bare,
        occupant,
        resources,
    })
}

fn subject() -> impl Strategy<Value = Subject> {
    any::<prop::sample::Index>().prop_map(|index| Subject::ALL[index.index(Subject::ALL.len())])
}

fn unanswered() -> impl Strategy<Value = Unanswered> {
    prop_oneof![Just(Unanswered::Refuse), Just(Unanswered::Deliver)]
}

fn event() -> impl Strategy<Value = Event> {
    (
        (1u8..=4, 1u8..=6, any::<bool>(), any::<i64>()),
        (text(), text(), text(), option::of(text())),
        (
            vec(recipient(), 0..4),
            option::of(text()),
            option::of(text()),
            option::of(text()),
            option::of(any::<[u8; 16]>()),
            (subject(), any::<bool>(), any::<bool>()),
        ),
    )
        .prop_map(|((ingress, target, secure, seen_at_micros), (host, stanza, from, to), rest)| Event {
            ingress: Ingress::from_code(ingress).expect("one of four"),
            host,
            stanza,
            from,
            to,
            target: Target::from_code(target).expect("one of six"),
            recipients: rest.0,
            session: rest.1,
            address: rest.2,
            secure,
            seen_at_micros,
            room: rest.3,
            event_id: rest.4,
            subject: rest.5.0,
            of_rooms: rest.5.1,
            room_exists: rest.5.2,
        })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Deliver),
        text().prop_map(Action::Replace),
        Just(Action::Drop),
        (text(), text(), option::of(text()))
            .prop_map(|(error_type, condition, text)| Action::Bounce(Bounce { error_type, condition, text })),
    ]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let exception = (text(), action()).prop_map(|(recipient, action)| Exception { recipient, action });
    (action(), vec(exception, 0..4), option::of(any::<[u8; 16]>()), any::<[bool; 2]>(), option::of(text()))
        .prop_map(|(action, exceptions, event_id, [outcome_wanted, named_only], resource)| Verdict {
            action,
            exceptions,
            event_id,
            outcome_wanted,
            resource,
            named_only,
        })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let delivery =
        (recipient(), 0u8..8, option::of(text())).prop_map(|(recipient, result, reason)| Delivery {
            bare: recipient.bare,
            occupant: recipient.occupant,
            resources: recipient.resources,
            result: DeliveryResult::from_code(result).expect("one of eight"),
            reason,
        });
    (any::<[u8; 16]>(), any::<i64>(), vec(delivery, 0..4), any::<bool>()).prop_map(
        |(event_id, at_micros, deliveries, is_final)| Outcome { event_id, at_micros, deliveries, is_final },
    )
}

fn hello() -> impl Strategy<Value = Hello> {
    let host_type = prop_oneof![
        Just(HostType::Users),
        Just(HostType::Rooms),
        Just(HostType::ExternalComponent),
        Just(HostType::Other)
    ];
    let host = (name(), host_type, vec(text(), 0..3), option::of(text()))
        .prop_map(|(name, host_type, hooks, problem)| ArmedHost { name, host_type, hooks, problem });
    (1u16.., 1u16.., [text(), text(), text(), text()], vec(host, 0..4), any::<(u64, u64, i64, u64)>())
        .prop_map(
            |(
                protocol_min,
                protocol_max,
                [plugin_version, server, server_version, instance],
                hosts,
                since,
            )| {
                Hello {
                    protocol_min,
                    protocol_max,
                    plugin_version,
                    server,
                    server_version,
                    instance,
                    hosts,
                    since_last: SinceLast {
                        delivered_unrecorded: since.0,
                        refused: since.1,
                        since_micros: since.2,
                        outcomes_lost: since.3,
                    },
                }
            },
        )
}

fn notice() -> impl Strategy<Value = Notice> {
    let rest = [(); 9].map(|()| option::of(text()));
    (name(), any::<i64>(), any::<bool>(), rest).prop_map(
        |(
            name,
            at_micros,
            snapshot,
            [jid, room, occupant, address, mechanism, session, reason, stanza, value],
        )| Notice {
            name,
            at_micros,
            jid,
            room,
            occupant,
            address,
            mechanism,
            snapshot,
            session,
            reason,
            stanza,
            value,
        },
    )
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        hello().prop_map(Frame::Hello),
        (any::<u64>(), event()).prop_map(|(id, event)| Frame::Event(id, event)),
        outcome().prop_map(Frame::Outcome),
        notice().prop_map(Frame::Notice),
        Just(Frame::SnapshotEnd),
        (any::<u32>(), any::<[u64; 8]>(), any::<bool>()).prop_map(|(day, sums, is_final)| {
            Frame::Count(Count { day, sums: Sums::from_array(sums), is_final })
        }),
        (any::<u16>(), option::of(text()), text()).prop_map(|(protocol, refused, sidecar_version)| {
            Frame::Welcome(Welcome { protocol, refused, sidecar_version })
        }),
        (any::<u64>(), verdict()).prop_map(|(id, verdict)| Frame::Verdict(id, verdict)),
        (unanswered(), any::<(u32, u32, i64)>(), vec((subject(), unanswered()), 0..4)).prop_map(
            |(unanswered, (answer_timeout_ms, max_waiting, generation), asked)| {
                let ask_about =
                    asked.into_iter().map(|(subject, unanswered)| AskAbout { subject, unanswered }).collect();
                Frame::Settings(Settings {
                    unanswered,
                    answer_timeout_ms,
                    max_waiting,
                    generation,
                    ask_about,
                })
            }
        ),
    ]
}

/// Cuts and decodes everything in `stream`, as a connection does.
fn read_all(mut stream: &[u8]) -> Vec<Result<Option<Frame>, DecodeError>> {
    let mut frames = Vec::new();
    while let Ok(Some(raw)) = Frame::cut(stream) {
        assert!(raw.taken > 0 && raw.taken <= stream.len());
        _ = raw.unknown_tags();
        frames.push(Frame::decode_payload(raw));
        stream = &stream[raw.taken..];
    }
    frames
}

fn encoded(frames: &[Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut out));
    out
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded_the_same(frames in vec(frame(), 0..6)) {
        let stream = encoded(&frames);
        let read: Vec<Frame> = read_all(&stream).into_iter().map(|f| f.expect("readable").expect("known")).collect();
        prop_assert_eq!(read, frames);
    }

    #[test]
    fn a_frame_is_not_read_before_it_is_whole(frame in frame(), part in 0.0..1.0f64) {
        let stream = encoded(&[frame]);
        let cut = (stream.len() as f64 * part) as usize;
        prop_assert_eq!(Frame::cut(&stream[..cut]), Ok(None));
    }

    #[test]
    fn garbage_never_panics_and_what_is_accepted_can_be_encoded_again(bytes in vec(any::<u8>(), 0..400)) {
        read_all(&bytes);
        // The same garbage as the fields of each kind: a random length rarely lets it in.
        for code in [1u8, 2, 3, 4, 5, 0x81, 0x82, 0x83, 0x7f] {
            let raw = RawFrame { code, id: 1, fields: &bytes, taken: 0 };
            _ = raw.unknown_tags();
            if let Ok(Some(frame)) = Frame::decode_payload(raw) {
                prop_assert_eq!(read_all(&encoded(std::slice::from_ref(&frame))), vec![Ok(Some(frame))]);
            }
        }
    }

    #[test]
    fn one_changed_byte_never_panics(frame in frame(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut stream = encoded(&[frame]);
        let at = at.index(stream.len());
        stream[at] = byte;
        read_all(&stream);
    }
}

#[test]
fn a_length_outside_its_range_is_an_error_at_once() {
    for length in [0u32, 8, MAX_FRAME as u32 + 1, u32::MAX] {
        assert_eq!(Frame::cut(&length.to_be_bytes()), Err(FrameError { length }));
    }
}

#[test]
fn unknown_kinds_and_tags_are_skipped_and_counted() {
    let mut out = Vec::new();
    Frame::Notice(Notice { name: "session-up".into(), ..Notice::default() }).encode(&mut out);
    out.extend_from_slice(&[0, 99, 0, 0, 0, 1, 7]);
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    let raw = Frame::cut(&out).expect("in range").expect("whole");
    assert_eq!(raw.unknown_tags(), 1);
    assert!(matches!(Frame::decode_payload(raw), Ok(Some(Frame::Notice(_)))));
    assert_eq!(Frame::decode_payload(RawFrame { code: 0x7f, ..raw }), Ok(None));
}

#[test]
fn an_unknown_value_of_a_known_field_is_an_error_of_the_frame() {
    let raw = RawFrame { code: 0x82, id: 1, fields: &[0, 1, 0, 0, 0, 1, 9], taken: 0 };
    assert_eq!(Frame::decode_payload(raw), Err(DecodeError::UnknownValue(1, 9)));
}
