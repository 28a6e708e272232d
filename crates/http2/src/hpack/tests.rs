//! The decoder beside a naive encoder that keeps the table in its own way, and under random bytes.

use super::table::STATIC;
use super::{Decoder, FIELD_OVERHEAD_BYTES, Field, HpackError, Listed, huffman};
use proptest::prelude::*;
use proptest::sample::Index;

/// A name and a value.
type Pair = (Vec<u8>, Vec<u8>);

/// A field and how to write it. What is not possible at the moment is written in another way.
#[derive(Clone, Debug)]
struct Op {
    name: Vec<u8>,
    value: Vec<u8>,
    form: Form,
    name_by_number: bool,
    name_in_huffman_code: bool,
    value_in_huffman_code: bool,
    /// Which of the entries that would do.
    entry: Index,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Indexed,
    IntoTable,
    NotIntoTable,
    NeverIntoTable,
}

/// Table size updates as parts of what is allowed, and then fields.
#[derive(Clone, Debug)]
struct Block {
    table_sizes: Vec<Index>,
    ops: Vec<Op>,
    max_list_bytes: usize,
}

/// The table as a plain list, the newest entry first, and whatever it takes to write blocks for it.
struct ModelEncoder {
    entries: Vec<Pair>,
    max_bytes: usize,
    allowed_bytes: usize,
}

impl ModelEncoder {
    fn new(allowed_bytes: usize) -> ModelEncoder {
        ModelEncoder {
            entries: Vec::new(),
            max_bytes: allowed_bytes,
            allowed_bytes,
        }
    }

    fn bytes(&self) -> usize {
        self.entries
            .iter()
            .map(|entry| counted(&entry.0, &entry.1))
            .sum()
    }

    fn evict(&mut self) {
        while self.bytes() > self.max_bytes {
            self.entries.pop();
        }
    }

    /// The numbers of the entries that `wanted` holds for.
    fn numbers(&self, wanted: impl Fn(&[u8], &[u8]) -> bool) -> Vec<usize> {
        let known = STATIC
            .iter()
            .map(|field| (&field.name[..], &field.value[..]));
        let learned = self
            .entries
            .iter()
            .map(|(name, value)| (&name[..], &value[..]));
        let numbered = (1..).zip(known.chain(learned));
        numbered
            .filter(|(_, (name, value))| wanted(name, value))
            .map(|(number, _)| number)
            .collect()
    }

    fn encode(&mut self, block: &Block) -> Vec<u8> {
        let mut out = Vec::new();
        for size in &block.table_sizes {
            self.max_bytes = size.index(self.allowed_bytes + 1);
            put_integer(&mut out, 0b0010_0000, 5, self.max_bytes);
            self.evict();
        }
        for op in &block.ops {
            self.put(&mut out, op);
        }
        out
    }

    fn put(&mut self, out: &mut Vec<u8>, op: &Op) {
        let whole = self.numbers(|name, value| name == op.name && value == op.value);
        if op.form == Form::Indexed && !whole.is_empty() {
            return put_integer(out, 0b1000_0000, 7, whole[op.entry.index(whole.len())]);
        }
        let (flags, prefix_bits) = match op.form {
            Form::Indexed | Form::IntoTable => (0b0100_0000, 6),
            Form::NotIntoTable => (0b0000_0000, 4),
            Form::NeverIntoTable => (0b0001_0000, 4),
        };
        let named = self.numbers(|name, _| name == op.name);
        if op.name_by_number && !named.is_empty() {
            put_integer(out, flags, prefix_bits, named[op.entry.index(named.len())]);
        } else {
            put_integer(out, flags, prefix_bits, 0);
            put_string(out, &op.name, op.name_in_huffman_code);
        }
        put_string(out, &op.value, op.value_in_huffman_code);
        if prefix_bits == 6 {
            self.entries.insert(0, (op.name.clone(), op.value.clone()));
            self.evict();
        }
    }
}

fn counted(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + FIELD_OVERHEAD_BYTES
}

fn put_string(out: &mut Vec<u8>, string: &[u8], in_huffman_code: bool) {
    let (flags, bytes) = match in_huffman_code {
        true => (0b1000_0000, huffman::encode(string)),
        false => (0, string.to_vec()),
    };
    put_integer(out, flags, 7, bytes.len());
    out.extend(bytes);
}

/// RFC 7541, 5.1, as its pseudocode has it.
fn put_integer(out: &mut Vec<u8>, flags: u8, prefix_bits: u32, mut value: usize) {
    let most = 2usize.pow(prefix_bits) - 1;
    if value < most {
        return out.push(flags + value as u8);
    }
    out.push(flags + most as u8);
    value -= most;
    while value >= 128 {
        out.push((value % 128 + 128) as u8);
        value /= 128;
    }
    out.push(value as u8);
}

/// The fields that come into a list of that size, and whether they are all.
fn listed(ops: &[Op], max_list_bytes: usize) -> (Vec<Pair>, Listed) {
    let (mut fields, mut bytes) = (Vec::new(), 0);
    for op in ops {
        bytes += counted(&op.name, &op.value);
        if bytes > max_list_bytes {
            return (fields, Listed::TooLarge);
        }
        fields.push((op.name.clone(), op.value.clone()));
    }
    (fields, Listed::All)
}

fn pairs<'a>(fields: impl IntoIterator<Item = &'a Field>) -> Vec<Pair> {
    fields
        .into_iter()
        .map(|field| (field.name.to_vec(), field.value.to_vec()))
        .collect()
}

/// Invariant **Bounded**.
fn assert_bounded(decoder: &Decoder, max_table_bytes: usize) {
    let bytes: usize = decoder
        .table()
        .entries()
        .iter()
        .map(Field::counted_bytes)
        .sum();
    assert_eq!(decoder.table().bytes(), bytes);
    assert!(
        bytes <= max_table_bytes,
        "{bytes} bytes are in a table of {max_table_bytes}"
    );
}

/// Few names and values, so that many are in the table again, and a few that are anything.
fn names() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        ":path",
        ":method",
        "te",
        "x-a",
        "x-b",
        "user-agent",
        "",
    ]);
    prop_oneof![
        6 => known.prop_map(|name| name.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec!["", "/", "GET", "POST", "trailers", "1", "2"]);
    prop_oneof![
        6 => known.prop_map(|value| value.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (any::<u8>(), 100usize..400).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

prop_compose! {
    fn ops()(
        name in names(),
        value in values(),
        form in prop::sample::select(vec![
            Form::Indexed, Form::Indexed, Form::IntoTable, Form::NotIntoTable, Form::NeverIntoTable,
        ]),
        flags: (bool, bool, bool),
        entry: Index,
    ) -> Op {
        let (name_by_number, name_in_huffman_code, value_in_huffman_code) = flags;
        Op { name, value, form, name_by_number, name_in_huffman_code, value_in_huffman_code, entry }
    }
}

prop_compose! {
    fn blocks()(
        table_sizes in prop_oneof![
            3 => Just(Vec::new()),
            1 => prop::collection::vec(any::<Index>(), 1..3),
        ],
        ops in prop::collection::vec(ops(), 0..20),
        max_list_bytes in prop_oneof![2 => Just(usize::MAX), 1 => 0usize..800],
    ) -> Block {
        Block { table_sizes, ops, max_list_bytes }
    }
}

fn table_bytes() -> impl Strategy<Value = usize> {
    prop_oneof![1 => Just(0), 3 => 30usize..300, 3 => Just(4096)]
}

proptest! {
    #[test]
    fn the_decoder_reads_what_the_model_wrote(
        max_table_bytes in table_bytes(),
        blocks in prop::collection::vec(blocks(), 1..8),
    ) {
        let (mut model, mut decoder) = (ModelEncoder::new(max_table_bytes), Decoder::new(max_table_bytes));
        for block in &blocks {
            let mut fields = Vec::new();
            let result = decoder.decode(&model.encode(block), block.max_list_bytes, &mut fields);
            let (expected, complete) = listed(&block.ops, block.max_list_bytes);
            prop_assert_eq!(result, Ok(complete));
            prop_assert_eq!(pairs(&fields), expected);
            prop_assert_eq!(&pairs(decoder.table().entries()), &model.entries);
            assert_bounded(&decoder, max_table_bytes);
        }
    }

    /// A block without its end is either a shorter one, or is refused for just that.
    #[test]
    fn a_block_may_be_cut_off_anywhere(block in blocks()) {
        let whole = ModelEncoder::new(4096).encode(&block);
        for len in 0..whole.len() {
            let mut fields = Vec::new();
            let result = Decoder::new(4096).decode(&whole[..len], usize::MAX, &mut fields);
            prop_assert!(matches!(result, Ok(Listed::All) | Err(HpackError::CutOff)), "{:?}", result);
            let all = pairs(block.ops.iter().map(|op| Field {
                name: op.name.clone().into(),
                value: op.value.clone().into(),
            }).collect::<Vec<_>>().iter());
            prop_assert!(all.starts_with(&pairs(&fields)));
        }
    }

    #[test]
    fn random_bytes_do_no_harm(
        max_table_bytes in table_bytes(),
        max_list_bytes in 0usize..1000,
        blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..20),
    ) {
        assert_harmless(max_table_bytes, max_list_bytes, &blocks);
    }

    /// Bytes that are wrong in one place get further than those that are random.
    #[test]
    fn damaged_blocks_do_no_harm(
        max_table_bytes in table_bytes(),
        max_list_bytes in 0usize..1000,
        blocks in prop::collection::vec((blocks(), any::<Index>(), any::<u8>()), 1..8),
    ) {
        let mut model = ModelEncoder::new(max_table_bytes);
        let damaged = blocks.iter().map(|(block, place, damage)| {
            let mut bytes = model.encode(block);
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] ^= damage;
            }
            bytes
        });
        let damaged: Vec<_> = damaged.collect();
        assert_harmless(max_table_bytes, max_list_bytes, &damaged);
    }
}

fn assert_harmless(max_table_bytes: usize, max_list_bytes: usize, blocks: &[Vec<u8>]) {
    let mut decoder = Decoder::new(max_table_bytes);
    for block in blocks {
        let mut fields = Vec::new();
        // Refused or not, and even afterwards, though nobody goes on with a decoder that has refused a block.
        let _ = decoder.decode(block, max_list_bytes, &mut fields);
        assert_bounded(&decoder, max_table_bytes);
        let listed_bytes: usize = fields.iter().map(Field::counted_bytes).sum();
        assert!(listed_bytes <= max_list_bytes);
        for field in &fields {
            let from_block = huffman::max_decoded_bytes(block.len());
            let longest = from_block.max(max_table_bytes).max(30);
            assert!(field.name.len() <= longest && field.value.len() <= longest);
        }
    }
}

#[test]
fn a_large_block_leaves_no_large_buffer() {
    let mut decoder = Decoder::new(4096);
    let mut blocks = Vec::new();
    for len in [100, 100_000] {
        let mut block = vec![0];
        put_string(&mut block, b"x", false);
        put_string(&mut block, &vec![b'a'; len], true);
        blocks.push(block);
    }
    let mut fields = Vec::new();
    assert_eq!(
        decoder.decode(&blocks[0], usize::MAX, &mut fields),
        Ok(Listed::All)
    );
    assert!((100..=4096).contains(&decoder.scratch_bytes()));
    assert_eq!(
        decoder.decode(&blocks[1], usize::MAX, &mut fields),
        Ok(Listed::All)
    );
    assert_eq!(fields[1].value.len(), 100_000);
    assert_eq!(decoder.scratch_bytes(), 0);
}
