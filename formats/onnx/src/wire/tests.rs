use proptest::prelude::*;

use super::*;

/// What a field of a test message holds.
#[derive(Clone, Debug)]
enum Held {
    Int(i64),
    Float(u32),
    Double(u64),
    Bytes(Vec<u8>),
}

fn held() -> impl Strategy<Value = Held> {
    prop_oneof![
        any::<i64>().prop_map(Held::Int),
        any::<u32>().prop_map(Held::Float),
        any::<u64>().prop_map(Held::Double),
        // Some are longer than what is read ahead.
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Held::Bytes),
        (0usize..40_000).prop_map(|n| Held::Bytes(vec![7; n])),
    ]
}

fn input(bytes: &[u8]) -> (tempfile::NamedTempFile, std::sync::Arc<Input>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let input = Input::open(file.path()).unwrap();
    (file, input)
}

proptest! {
    #[test]
    fn what_is_written_is_read(fields in proptest::collection::vec((1u32..1 << 29, held()), 0..20)) {
        let mut message = Message::new();
        for (number, value) in &fields {
            message = match value {
                Held::Int(v) => message.int(*number, *v),
                Held::Float(v) => message.float(*number, f32::from_bits(*v)),
                Held::Double(v) => message.double(*number, f64::from_bits(*v)),
                Held::Bytes(v) => message.bytes(*number, v),
            };
        }
        let bytes = message.into_bytes();
        let (_file, input) = input(&bytes);
        let mut cursor = Cursor::new(&input, 0);
        let mut at = 0;
        for (number, value) in &fields {
            let field = cursor.field(bytes.len() as u64).unwrap().unwrap();
            prop_assert_eq!((field.number, field.span.start), (*number, at));
            at = field.span.end;
            match (value, field.value) {
                (Held::Int(v), Value::Varint(w)) => prop_assert_eq!(*v, w as i64),
                (Held::Float(v), Value::Fixed32(w)) => prop_assert_eq!(*v, w),
                (Held::Double(v), Value::Fixed64(w)) => prop_assert_eq!(*v, w),
                (Held::Bytes(v), Value::Bytes(range)) => {
                    prop_assert_eq!(v, &cursor.bytes(&range, u64::MAX, "").unwrap());
                }
                (value, other) => prop_assert!(false, "{:?} was read as {:?}", value, other),
            }
        }
        prop_assert_eq!(cursor.field(bytes.len() as u64).unwrap(), None);
    }

    #[test]
    fn varints_have_the_length_that_is_said(value in prop_oneof![any::<u64>(), (0u32..64).prop_map(|s| 1 << s)]) {
        let mut bytes = Vec::new();
        push_varint(&mut bytes, value);
        prop_assert_eq!(bytes.len() as u64, varint_len(value));
        let (_file, input) = input(&bytes);
        prop_assert_eq!(Cursor::new(&input, 0).varint(bytes.len() as u64).unwrap(), value);
    }
}
