//! What holds for every header and every garbled one.

use super::*;

fn header(content: Content) -> Header {
    Header {
        id: Uuid::from_u128(1),
        stream: StreamId {
            journal: Uuid::from_u128(2),
            endpoint: "main".to_owned(),
            incarnation: Uuid::from_u128(3),
        },
        sequence: u64::MAX,
        previous: [7; 32],
        recorded_at_nanos: -1,
        node: "node-0".to_owned(),
        cluster: "chat/xmpp".to_owned(),
        content,
        key: Some("k1".to_owned()),
        key_salt: Some([9; 32]),
        payloads: vec![PayloadRef { number: 1, form: 1, commitment: [8; 32] }],
        unknown: Vec::new(),
    }
}

fn every_kind() -> Vec<Header> {
    let recipient = |bare: &str| RecipientEntry {
        bare: bare.to_owned(),
        occupant: Some("room@muc/nick".to_owned()),
        resources: vec!["a".to_owned(), "b".to_owned()],
        direction: Direction::Outbound,
    };
    let accepted = Accepted {
        event: Uuid::from_u128(4),
        seen_at_nanos: i64::MIN,
        ingress: Ingress::RemoteServer,
        from: "a@b/c".to_owned(),
        to: None,
        target: Target::Occupant,
        room: Some("room@muc".to_owned()),
        message_type: "chat".to_owned(),
        stanza_id: Some(String::new()),
        origin_id: Some("o".to_owned()),
        host: "b".to_owned(),
        recipients: vec![recipient("x@y"), recipient("z@y")],
        action: ActionCode::Bounce,
        condition: Some("not-allowed".to_owned()),
        session: None,
        exceptions: vec![ExceptionEntry {
            recipient: "x@y/a".to_owned(),
            action: ActionCode::Drop,
            condition: None,
        }],
    };
    let outcome = Outcome {
        event: Uuid::from_u128(4),
        seen_at_nanos: 5,
        deliveries: vec![Delivery {
            bare: "x@y".to_owned(),
            occupant: None,
            resources: vec!["a".to_owned()],
            result: DeliveryResult::FromOffline,
            reason: Some("r".to_owned()),
        }],
        is_final: true,
    };
    let gap =
        Gap { first: Some(1), count: 2, reason: GapReason::NoLink, incarnation: Some(Uuid::from_u128(6)) };
    let tally = Tally {
        day: 20_000,
        instance: "i".to_owned(),
        sums: Sums::from_array([8, 7, 6, 5, 4, 3, 2, u64::MAX]),
        is_final: true,
    };
    let missed = Missed {
        seen_at_nanos: 4,
        jid: "ann@here.example/pc".to_owned(),
        event: "e_SESSION".to_owned(),
        server: "wall".to_owned(),
        profile: "Wall".to_owned(),
    };
    let end = StreamEnd { incarnation: Uuid::from_u128(5), sequence: 9, hash: [1; 32] };
    vec![
        header(Content::Open(Open { predecessor: Some(end), software: "1".to_owned() })),
        header(Content::Open(Open { predecessor: None, software: "1".to_owned() })),
        header(Content::Body(Body::Accepted(accepted))),
        header(Content::Body(Body::Outcome(outcome))),
        header(Content::Body(Body::Gap(gap))),
        header(Content::Body(Body::Tally(tally))),
        header(Content::Body(Body::Missed(missed))),
        header(Content::Close),
    ]
}

#[test]
fn every_header_is_read_as_it_was_written_and_written_as_it_was_read() {
    for header in every_kind() {
        let bytes = header.encode();
        let read = Header::decode(&bytes).expect("a header");
        assert_eq!(read, header);
        assert_eq!(read.encode(), bytes);
    }
}

#[test]
fn fields_of_a_later_version_are_kept_in_their_places() {
    for mut header in every_kind() {
        header.unknown = vec![(13, b"between".to_vec()), (65_535, vec![])];
        let bytes = header.encode();
        let read = Header::decode(&bytes).expect("a header");
        assert_eq!((&read, read.encode()), (&header, bytes));
    }
}

#[test]
fn a_header_cut_short_or_of_another_version_is_refused() {
    for header in every_kind() {
        let bytes = header.encode();
        for end in 0..bytes.len() {
            // Cutting off whole trailing fields leaves a shorter header, but never the same one.
            assert_ne!(Header::decode(&bytes[..end]).ok().as_ref(), Some(&header));
        }
        let mut newer = bytes.clone();
        newer[3] = 2;
        assert_eq!(Header::decode(&newer), Err(HeaderError::Version(2)));
    }
}

#[test]
fn there_is_one_way_to_write_a_header() {
    let bytes = every_kind()[5].encode();
    let mut fields: Vec<_> = Fields::new(&bytes[4..]).flatten().collect();
    let write = |fields: &[Field<'_>]| {
        let mut w = FieldsWriter::new();
        for field in fields {
            w.bytes(field.tag, field.bytes);
        }
        [b"CTL\x01", w.finish().as_slice()].concat()
    };
    assert_eq!(write(&fields), bytes);
    fields.swap(0, 1);
    assert_eq!(Header::decode(&write(&fields)), Err(HeaderError::Order(1)));
    fields.swap(0, 1);
    fields.insert(1, fields[0]);
    assert_eq!(Header::decode(&write(&fields)), Err(HeaderError::Order(1)));
}
