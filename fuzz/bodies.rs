//! What the fuzz targets do with their bytes. The seeds are replayed through the same functions by an ordinary test
//! (`cli/tests/fuzz_seeds.rs`): nothing may panic, hang, or ask for more memory than the bytes justify.

use std::path::{Path, PathBuf};

use compress_core::class::resolve::ClassMap;
use compress_core::encode::outline::{ROLES, i8_type, i64_type, u8_type};
use compress_core::encode::{Decoder, Outline, PackedLayout, PieceOutline, ReadAt, TermOutline, ValueCoding};
use compress_core::format::{CreateOptions, Format, OpenOptions};
use compress_core::mask::MaskFile;
use compress_core::model::Model;
use compress_core::recipe::Recipe;
use compress_core::tensor::Dtype;

/// Bytes as a .onnx file: opened, classified, read, and written again.
pub fn onnx(data: &[u8]) {
    model(&compress_onnx::Onnx, "model.onnx", data);
}

/// Bytes as a .safetensors file: opened, classified, read, and written again.
pub fn safetensors(data: &[u8]) {
    model(&compress_safetensors::Safetensors, "model.safetensors", data);
}

/// Bytes as a recipe.
pub fn recipe(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Recipe::parse(text, Path::new("pipeline.toml"));
    }
}

/// Bytes as a packed tensor: terms and pieces that mostly fit together, and what is in them. What is opened reads alike
/// in one piece and in two.
pub fn packed(data: &[u8]) {
    let mut bytes = data.iter().copied();
    let mut next = || bytes.next().unwrap_or(0);
    let dtype = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F64][usize::from(next() % 4)].clone();
    let shape: Vec<u64> = (0..next() % 4).map(|_| u64::from(next())).collect();
    let n: u64 = shape.iter().product::<u64>().min(1 << 24);
    let (mut terms, mut pieces) = (Vec::new(), Vec::new());
    for _ in 0..next() % 4 {
        let layout = PackedLayout::ALL[usize::from(next()) % PackedLayout::ALL.len()];
        let values = match next() % 12 {
            0 | 1 => ValueCoding::Plain,
            2 => ValueCoding::F16,
            3 => ValueCoding::Bf16,
            4 => ValueCoding::Int8,
            b => ValueCoding::Codebook(b - 4),
        };
        let (count, rows) = (u64::from(next()), u64::from(next().max(1)));
        let outline = likely(&dtype, &shape, n, (layout, values), count, rows);
        let mut outlines: Vec<PieceOutline> = outline;
        // Now and then something else than what would fit.
        match next() {
            0 => drop(outlines.pop()),
            1 => outlines.push(PieceOutline::new(ROLES[usize::from(next()) % ROLES.len()], u8_type(), vec![count])),
            2 => outlines.iter_mut().for_each(|p| p.shape.push(1)),
            3 => outlines.iter_mut().for_each(|p| p.shape.iter_mut().for_each(|d| *d += 1)),
            4 => outlines.iter_mut().for_each(|p| p.dtype = i8_type()),
            5 => outlines.iter_mut().for_each(|p| p.shape.iter_mut().for_each(|d| *d <<= 40)),
            _ => {}
        }
        let fill = next();
        let mut made: Vec<Box<dyn ReadAt>> = Vec::new();
        for piece in &outlines {
            let bytes = piece.shape.iter().try_fold(8u64, |n, d| n.checked_mul(*d)).map_or(0, |n| n.min(1 << 19));
            made.push(Box::new((0..bytes).map(|i| if i < 512 { next() } else { fill }).collect::<Vec<u8>>()));
        }
        terms.push(TermOutline { layout, values, pieces: outlines });
        pieces.push(made);
    }
    let width = dtype.float_bytes().unwrap_or(1) as u64;
    let Ok(decoder) = Decoder::new(Outline { dtype, shape, terms }, pieces, 4096) else { return };
    let total = (n * width).min(1 << 20) as usize;
    let (mut whole, mut parts) = (vec![0; total], vec![0; total]);
    let middle = total / 3;
    let (first, second) = parts.split_at_mut(middle);
    if decoder.read_at(0, &mut whole).is_ok() {
        decoder.read_at(0, first).expect("it was read before");
        decoder.read_at(middle as u64, second).expect("it was read before");
        assert!(whole == parts, "read otherwise in two pieces");
    }
}

/// Pieces that fit a term, where `count` values do.
fn likely(
    dtype: &Dtype,
    shape: &[u64],
    n: u64,
    (layout, values): (PackedLayout, ValueCoding),
    count: u64,
    rows: u64,
) -> Vec<PieceOutline> {
    let mut pieces = Vec::new();
    let mut array = |names: [&'static str; 3], dims: Vec<u64>, scale: Vec<u64>| {
        let mut packed = dims.clone();
        let kind = match values {
            ValueCoding::Plain => dtype.clone(),
            ValueCoding::F16 => Dtype::F16,
            ValueCoding::Bf16 => Dtype::Bf16,
            ValueCoding::Int8 => i8_type(),
            ValueCoding::Codebook(bits) => {
                packed.iter_mut().last().into_iter().for_each(|d| *d = (*d * u64::from(bits)).div_ceil(8));
                u8_type()
            }
        };
        pieces.push(PieceOutline::new(names[0], kind, packed));
        match values {
            ValueCoding::Int8 => pieces.push(PieceOutline::new(names[1], Dtype::F32, scale)),
            ValueCoding::Codebook(bits) => pieces.push(PieceOutline::new(names[2], dtype.clone(), vec![1 << bits])),
            _ => {}
        }
    };
    let plain = ["values", "scale", "codebook"];
    let mut one_axis = vec![1; shape.len()];
    if let Some(axis) = shape.iter().position(|d| rows.is_multiple_of(2) && *d > 1) {
        one_axis[axis] = shape[axis];
    }
    match layout {
        PackedLayout::Dense => array(plain, vec![n], one_axis),
        PackedLayout::Mask | PackedLayout::Deltas | PackedLayout::Rice => array(plain, vec![count], one_axis),
        PackedLayout::Hashed => array(plain, vec![count], vec![1]),
        PackedLayout::Factored => {
            let (cols, rank) = (n / rows, count % 16);
            array(["u", "u_scale", "u_codebook"], vec![rows, rank], vec![rows, 1]);
            array(["v", "v_scale", "v_codebook"], vec![rank, cols], vec![1, cols]);
        }
    }
    match layout {
        PackedLayout::Mask => pieces.push(PieceOutline::new("mask", u8_type(), vec![n.div_ceil(8)])),
        PackedLayout::Deltas => pieces.push(PieceOutline::new("deltas", u8_type(), vec![count])),
        PackedLayout::Rice => {
            pieces.push(PieceOutline::new("unary", u8_type(), vec![count.min(n).div_ceil(4)]));
            pieces.push(PieceOutline::new("rest", u8_type(), vec![count.div_ceil(8), rows % 9]));
        }
        PackedLayout::Hashed => pieces.push(PieceOutline::new("hash", i64_type(), vec![5])),
        _ => {}
    }
    pieces
}

/// Bytes as a mask file.
pub fn mask(data: &[u8]) {
    let path = scratch("fuzz.masks.safetensors");
    std::fs::write(&path, data).expect("the scratch folder is writable");
    let Ok(masks) = MaskFile::open(&path) else { return };
    let names: Vec<String> = masks.tensors().map(|(name, _)| name.to_string()).collect();
    for name in names {
        let _ = masks.read_bits(&name, 0, &mut [0; 64]);
    }
}

fn model(format: &dyn Format, name: &str, data: &[u8]) {
    let path = scratch(name);
    std::fs::write(&path, data).expect("the scratch folder is writable");
    let Ok(model) = Model::open(&[format], &[path], &OpenOptions::default()) else { return };
    let _ = ClassMap::resolve(model.tensors(), model.roles(), &[], true);
    let mut buffer = vec![0; 4096];
    for (id, info) in model.tensors().iter().enumerate() {
        let bytes = info.dense_bytes();
        for offset in [0, bytes / 2, bytes.saturating_sub(4096)] {
            let len = (bytes - offset).min(4096) as usize;
            let _ = model.read_at(id, offset, &mut buffer[..len]);
        }
    }
    let output = scratch(&format!("out-{name}"));
    if let Ok(sink) = model.sources()[0].create(&output, &CreateOptions { force: true, ..CreateOptions::default() })
        && let Ok(staged) = sink.finish()
    {
        let again = staged.reopen().expect("what was written without a change opens again");
        assert_eq!(again.tensors().len(), model.tensors().len());
    }
}

/// A file of this process in memory.
fn scratch(name: &str) -> PathBuf {
    let base = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
    let folder = base.join(format!("compress-fuzz-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::create_dir_all(&folder).expect("the scratch folder can be made");
    folder.join(name)
}
