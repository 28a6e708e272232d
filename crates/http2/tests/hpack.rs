//! HPACK by the examples of its RFC, and every way in which a header block is refused.

use eaves_http2::hpack::{Decoder, Field, HpackError, Listed, encode};

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, HpackError> {
    let mut fields = Vec::new();
    assert_eq!(decoder.decode(block, usize::MAX, &mut fields)?, Listed::All);
    Ok(fields)
}

fn decode_one(block: &[u8]) -> Result<Vec<Field>, HpackError> {
    decode(&mut Decoder::new(4096), block)
}

/// Lines as the RFC prints them: `name: value`.
fn lines(fields: &[Field]) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the examples are text");
    fields
        .iter()
        .map(|field| format!("{}: {}", text(&field.name), text(&field.value)))
        .collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks_exact(2)
        .map(|pair| (pair[0] * 16 + pair[1]) as u8)
        .collect()
}

/// The dynamic table, read by asking for each number. One that is not there changes nothing.
fn table(decoder: &mut Decoder) -> (Vec<String>, usize) {
    let mut entries = Vec::new();
    for number in 62.. {
        let mut block = bytes::BytesMut::new();
        encode::put_indexed(&mut block, number);
        match decode(decoder, &block) {
            Ok(fields) => entries.extend(fields),
            Err(error) => {
                assert_eq!(error, HpackError::NoSuchEntry(number as u32));
                break;
            }
        }
    }
    (
        lines(&entries),
        entries.iter().map(Field::counted_bytes).sum(),
    )
}

/// A header block, the fields in it, and the table after it with its size.
type Step<'a> = (&'a str, &'a [&'a str], &'a [&'a str], usize);

fn assert_steps(max_table_bytes: usize, steps: &[Step]) {
    let mut decoder = Decoder::new(max_table_bytes);
    for (i, (block, fields, entries, table_bytes)) in steps.iter().enumerate() {
        let decoded = decode(&mut decoder, &bytes_of(block)).expect("the example is valid");
        assert_eq!(lines(&decoded), *fields, "fields of step {i}");
        let (left, left_bytes) = table(&mut decoder);
        assert_eq!(left, *entries, "table after step {i}");
        assert_eq!(left_bytes, *table_bytes, "size of the table after step {i}");
    }
}

#[test]
fn c_2_representations() {
    let custom = "custom-key: custom-header";
    assert_steps(
        4096,
        &[(
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            &[custom],
            &[custom],
            55,
        )],
    );
    assert_steps(
        4096,
        &[(
            "040c 2f73 616d 706c 652f 7061 7468",
            &[":path: /sample/path"],
            &[],
            0,
        )],
    );
    assert_steps(
        4096,
        &[(
            "1008 7061 7373 776f 7264 0673 6563 7265 74",
            &["password: secret"],
            &[],
            0,
        )],
    );
    assert_steps(4096, &[("82", &[":method: GET"], &[], 0)]);
}

/// Of C.3 and C.4, which differ in the blocks alone.
fn assert_requests(blocks: [&str; 3]) {
    let (authority, no_cache, custom) = (
        ":authority: www.example.com",
        "cache-control: no-cache",
        "custom-key: custom-value",
    );
    let first = [":method: GET", ":scheme: http", ":path: /", authority];
    let second = [
        ":method: GET",
        ":scheme: http",
        ":path: /",
        authority,
        no_cache,
    ];
    let third = [
        ":method: GET",
        ":scheme: https",
        ":path: /index.html",
        authority,
        custom,
    ];
    assert_steps(
        4096,
        &[
            (blocks[0], &first, &[authority], 57),
            (blocks[1], &second, &[no_cache, authority], 110),
            (blocks[2], &third, &[custom, no_cache, authority], 164),
        ],
    );
}

#[test]
fn c_3_requests_in_letters() {
    assert_requests([
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ]);
}

#[test]
fn c_4_requests_in_huffman_code() {
    assert_requests([
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ]);
}

/// Of C.5 and C.6, with a table of 256 bytes.
fn assert_responses(blocks: [&str; 3]) {
    let (found, moved) = (":status: 302", ":status: 307");
    let (private, location) = (
        "cache-control: private",
        "location: https://www.example.com",
    );
    let date = "date: Mon, 21 Oct 2013 20:13:21 GMT";
    let later = "date: Mon, 21 Oct 2013 20:13:22 GMT";
    let gzip = "content-encoding: gzip";
    let cookie = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    let third = [":status: 200", private, later, location, gzip, cookie];
    assert_steps(
        256,
        &[
            (
                blocks[0],
                &[found, private, date, location],
                &[location, date, private, found],
                222,
            ),
            (
                blocks[1],
                &[moved, private, date, location],
                &[moved, location, date, private],
                222,
            ),
            (blocks[2], &third, &[cookie, gzip, later], 215),
        ],
    );
}

#[test]
fn c_5_responses_in_letters() {
    assert_responses([
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133
         2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70
         6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d
         54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049
         5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e
         3d31",
    ]);
}

#[test]
fn c_6_responses_in_huffman_code() {
    assert_responses([
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6
         2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab
         77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f
         9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ]);
}

#[test]
fn what_ends_in_the_middle_is_refused() {
    for block in [
        &b"\xff"[..],
        b"\x40",
        b"\x40\x01",
        b"\x40\x01a",
        b"\x40\x01a\x02b",
        b"\x04",
        b"\x00\x81",
        b"\x3f",
        b"\x3f\x80",
    ] {
        assert_eq!(decode_one(block), Err(HpackError::CutOff), "{block:x?}");
    }
    // The longest string that an integer can announce.
    assert_eq!(
        decode_one(b"\x00\x7f\x80\xff\xff\xff\x0f"),
        Err(HpackError::CutOff)
    );
}

#[test]
fn numbers_that_no_table_has_are_refused() {
    assert_eq!(decode_one(b"\x80"), Err(HpackError::NoSuchEntry(0)));
    assert_eq!(decode_one(b"\xbe"), Err(HpackError::NoSuchEntry(62)));
    assert_eq!(
        decode_one(b"\xff\x80\xff\xff\xff\x0f"),
        Err(HpackError::NoSuchEntry(u32::MAX))
    );
    // As a name; there, 0 means that letters follow.
    assert_eq!(decode_one(b"\x7e\x01a"), Err(HpackError::NoSuchEntry(62)));
    assert_eq!(
        decode_one(b"\x0f\x2f\x01a"),
        Err(HpackError::NoSuchEntry(62))
    );
    assert_eq!(
        decode_one(b"\x1f\x2f\x01a"),
        Err(HpackError::NoSuchEntry(62))
    );
}

#[test]
fn integers_over_32_bits_are_refused() {
    for block in [
        &b"\xff\x81\xff\xff\xff\x0f"[..],
        b"\xff\x80\x80\x80\x80\x80\x00",
        b"\x00\x7f\xff\xff\xff\xff\xff\x01",
        b"\x3f\xff\xff\xff\xff\x7f",
    ] {
        assert_eq!(
            decode_one(block),
            Err(HpackError::IntegerTooLarge),
            "{block:x?}"
        );
    }
}

#[test]
fn bad_huffman_code_is_refused() {
    // EOS; a byte of padding; padding with a zero; in a name and in a value.
    for string in [&b"\x84\xff\xff\xff\xff"[..], b"\x82\x07\xff", b"\x81\x06"] {
        assert_eq!(
            decode_one(&[b"\x00", string, b"\x01a"].concat()),
            Err(HpackError::BadHuffmanCode)
        );
        assert_eq!(
            decode_one(&[b"\x00\x01a", string].concat()),
            Err(HpackError::BadHuffmanCode)
        );
    }
    assert_eq!(
        lines(&decode_one(b"\x00\x81\x07\x81\x0f").expect("padding of three ones")),
        ["0: 1"]
    );
}

#[test]
fn the_table_size_changes_at_the_beginning_of_a_block_only() {
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, b"\x40\x01a\x01b\x40\x01c\x01d").expect("two entries");
    // 34 bytes, which is one entry; then 4096 again.
    assert_eq!(
        decode(&mut decoder, b"\x3f\x03\x3f\xe1\x1f\x82")
            .expect("two updates")
            .len(),
        1
    );
    assert_eq!(table(&mut decoder), (vec!["c: d".to_owned()], 34));
    assert_eq!(decode(&mut decoder, b"\x20"), Ok(vec![]));
    assert_eq!(table(&mut decoder), (vec![], 0));
    assert_eq!(
        decode(&mut decoder, b"\x82\x20"),
        Err(HpackError::TableSizeTooLate)
    );
    assert_eq!(
        decode(&mut decoder, b"\x20\x00\x01a\x01b\x20"),
        Err(HpackError::TableSizeTooLate)
    );
}

#[test]
fn the_table_never_becomes_larger_than_announced() {
    assert_eq!(decode_one(b"\x3f\xe1\x1f"), Ok(vec![]));
    let error = HpackError::TableTooLarge {
        asked_bytes: 4097,
        allowed_bytes: 4096,
    };
    assert_eq!(decode_one(b"\x3f\xe2\x1f"), Err(error));
    assert_eq!(
        decode(&mut Decoder::new(0), b"\x21"),
        Err(HpackError::TableTooLarge {
            asked_bytes: 1,
            allowed_bytes: 0
        })
    );
}

#[test]
fn a_name_outlives_the_entry_that_it_came_from() {
    let mut decoder = Decoder::new(40);
    decode(&mut decoder, b"\x40\x04name\x01a").expect("an entry of 37 bytes");
    assert_eq!(
        lines(&decode(&mut decoder, b"\x7e\x02bb").expect("its name")),
        ["name: bb"]
    );
    assert_eq!(table(&mut decoder), (vec!["name: bb".to_owned()], 38));
    // An entry that is larger than the table is a field like any other, and empties it.
    assert_eq!(
        lines(&decode(&mut decoder, b"\x7e\x05large").expect("its name")),
        ["name: large"]
    );
    assert_eq!(table(&mut decoder), (vec![], 0));
}

#[test]
fn a_list_that_is_too_large_still_works_on_the_table() {
    let mut decoder = Decoder::new(4096);
    let mut fields = Vec::new();
    // Fields of 42, 34 and 34 bytes; then an entry of the table, which would fit if it came earlier.
    let block = b"\x82\x40\x01a\x01b\x40\x01c\x01d\x00\x01e\x01f\xbf";
    assert_eq!(
        decoder.decode(block, 42 + 34 + 33, &mut fields),
        Ok(Listed::TooLarge)
    );
    assert_eq!(lines(&fields), [":method: GET", "a: b"]);
    assert_eq!(
        table(&mut decoder),
        (vec!["c: d".to_owned(), "a: b".to_owned()], 68)
    );
    // What is in the list already does not count.
    assert_eq!(
        decoder.decode(b"\xbe\xbf", 68, &mut fields),
        Ok(Listed::All)
    );
    assert_eq!(lines(&fields), [":method: GET", "a: b", "c: d", "a: b"]);
    // And errors are errors, in what is not listed too.
    assert_eq!(
        decoder.decode(b"\xbe\x80", 0, &mut fields),
        Err(HpackError::NoSuchEntry(0))
    );
}

#[test]
fn what_is_encoded_is_decoded() {
    let long = "v".repeat(300);
    let mut block = bytes::BytesMut::new();
    encode::put_indexed(&mut block, 8);
    encode::put_literal_named(&mut block, 31, b"application/grpc");
    encode::put_literal(&mut block, b"grpc-status", b"0");
    encode::put_literal_into_table(&mut block, b"x", long.as_bytes());
    encode::put_literal_named_into_table(&mut block, 62, b"y");
    encode::put_indexed(&mut block, 63);
    let long = format!("x: {long}");
    let expected = [
        ":status: 200",
        "content-type: application/grpc",
        "grpc-status: 0",
        &long,
        "x: y",
        &long,
    ];
    let mut decoder = Decoder::new(4096);
    assert_eq!(
        lines(&decode(&mut decoder, &block).expect("a valid block")),
        expected
    );
    assert_eq!(
        table(&mut decoder),
        (vec!["x: y".to_owned(), long], 34 + 333)
    );
}
