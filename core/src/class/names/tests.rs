use std::collections::BTreeMap;

use super::*;
use crate::tensor::Dtype;

/// Names and shapes.
type List<'a> = &'a [(&'a str, &'a [u64])];

fn tensors(list: List) -> Vec<TensorInfo> {
    let info = |(name, shape): &(&str, &[u64])| TensorInfo {
        name: (*name).to_string(),
        shape: shape.to_vec(),
        dtype: Dtype::F32,
        elements: shape.iter().product(),
        stored_bytes: 0,
        file: 0,
        not_a_weight: None,
    };
    list.iter().map(info).collect()
}

/// `class` or `class/below` of each part; `-reason` for what is left alone.
fn shown(list: List) -> Vec<String> {
    let names = |parts: &[PartSpec]| parts.iter().map(PartSpec::name).collect::<Vec<_>>().join(" ");
    let show = |role: &Role| match role {
        Role::Weight(parts) => names(parts),
        Role::OneDimensional(parts, reason) => format!("-{reason} {}", names(parts)),
        Role::Never(reason) => format!("-{reason}"),
    };
    let tensors = tensors(list);
    let roles = roles(&tensors);
    for (info, role) in tensors.iter().zip(&roles.tensors) {
        if let Role::Weight(parts) | Role::OneDimensional(parts, _) = role {
            let mut end = 0; // parts tile the tensor
            for part in parts {
                assert_eq!(part.offset, end, "{}", info.name);
                end += part.weights();
            }
            assert_eq!(end, info.elements, "{}", info.name);
        }
    }
    roles.tensors.iter().map(show).collect()
}

#[test]
fn the_translation_model_has_the_classes_of_its_graph() {
    let list: Vec<(&str, &[u64])> = vec![
        ("attn.weight", &[256, 256]),
        ("attn_combine.bias", &[256]),
        ("attn_combine.weight", &[256, 512]),
        ("decoder.bias_hh_l0", &[1024]),
        ("decoder.weight_hh_l0", &[1024, 256]),
        ("decoder.weight_hh_l1", &[1024, 256]),
        ("decoder.weight_ih_l0", &[1024, 256]),
        ("decoder.weight_ih_l1", &[1024, 256]),
        ("encoder.bias_ih_l1", &[1024]),
        ("encoder.weight_hh_l0", &[1024, 256]),
        ("encoder.weight_hh_l1", &[1024, 256]),
        ("encoder.weight_ih_l0", &[1024, 256]),
        ("encoder.weight_ih_l1", &[1024, 256]),
        ("softmax.bias", &[7859]),
        ("softmax.weight", &[7859, 256]),
        ("src_embed.weight", &[5921, 256]),
        ("tgt_embed.weight", &[7859, 256]),
    ];
    let mut classes: BTreeMap<String, u64> = BTreeMap::new();
    for role in roles(&tensors(&list)).tensors {
        if let Role::Weight(parts) = role {
            parts.iter().for_each(|p| *classes.entry(p.class.clone()).or_default() += p.weights());
        }
    }
    let expected = [
        ("attention", 196_608),
        ("softmax", 2_011_904),
        ("source.embedding", 1_515_776),
        ("source.layer1", 524_288),
        ("source.layer2", 524_288),
        ("target.embedding", 2_011_904),
        ("target.layer1", 524_288),
        ("target.layer2", 524_288),
    ];
    assert_eq!(classes, expected.map(|(n, c)| (n.to_string(), c)).into());
    let shown = shown(&list);
    assert_eq!(shown[1], "-bias attention");
    assert_eq!(shown[3], "-bias target.layer1");
    let gates =
        "source.layer1/input/below source.layer1/forget/below source.layer1/cell/below source.layer1/output/below";
    assert_eq!(shown[11], gates);
    assert_eq!(shown[4].split(' ').nth(1), Some("target.layer1/forget/recurrent"));
}

#[test]
fn recurrent_layers_of_other_shapes_and_names() {
    let cases: Vec<(List, &[&str])> = vec![
        (
            &[("gru.weight_ih_l0", &[6, 5]), ("gru.weight_hh_l0", &[6, 2])],
            &[
                "layer1/reset/below layer1/update/below layer1/new/below",
                "layer1/reset/recurrent layer1/update/recurrent layer1/new/recurrent",
            ],
        ),
        (
            &[("weight_ih_l0_reverse", &[2, 5]), ("weight_hh_l0_reverse", &[2, 2]), ("bias_hh_l0_reverse", &[2])],
            &["layer1/hidden/below/reverse", "layer1/hidden/recurrent/reverse", "-bias layer1"],
        ),
        // With a projection weight_hh is [4H, P].
        (
            &[("r.weight_ih_l0", &[8, 5]), ("r.weight_hh_l0", &[8, 1]), ("r.weight_hr_l0", &[1, 2])],
            &[
                "layer1/input/below layer1/forget/below layer1/cell/below layer1/output/below",
                "layer1/input/recurrent layer1/forget/recurrent layer1/cell/recurrent layer1/output/recurrent",
                "layer1/projection",
            ],
        ),
        // A stack of cells; modules that are numbered; modules of different names; a matrix without its sibling.
        (
            &[("d.rnns.10.weight_hh", &[3, 3]), ("d.rnns.9.weight_hh", &[3, 3])],
            &["layer2/hidden/recurrent", "layer1/hidden/recurrent"],
        ),
        (
            &[("rnn1.weight_hh_l0", &[3, 3]), ("rnn1.weight_hh_l1", &[3, 3]), ("rnn2.weight_hh_l0", &[3, 3])],
            &["layer1/hidden/recurrent", "layer2/hidden/recurrent", "layer3/hidden/recurrent"],
        ),
        (
            &[("char.weight_hh_l0", &[3, 3]), ("word.weight_hh_l0", &[3, 3])],
            &["char.layer1/hidden/recurrent", "word.layer1/hidden/recurrent"],
        ),
        (&[("a.weight_ih_l0", &[7, 3])], &["layer1/below"]),
        (
            &[("encoder.weight_hh_l0", &[3, 3]), ("encoder.embed.weight", &[9, 3])],
            &["layer1/hidden/recurrent", "embedding"],
        ),
        (
            &[
                ("encoder.rnn.weight_hh_l0", &[3, 3]),
                ("decoder.rnn.layers.0.weight_hh", &[3, 3]),
                ("decoder.rnn.layers.1.weight_hh", &[3, 3]),
                ("encoder.embeddings.weight", &[9, 3]),
                ("decoder.embed.weight", &[8, 3]),
                ("decoder.attn.linear_in.weight", &[3, 3]),
                ("decoder.out.weight", &[8, 3]),
                ("bridge.weight", &[3, 3]),
            ],
            &[
                "source.layer1/hidden/recurrent",
                "target.layer1/hidden/recurrent",
                "target.layer2/hidden/recurrent",
                "source.embedding",
                "target.embedding",
                "attention",
                "softmax",
                "bridge",
            ],
        ),
    ];
    for (list, expected) in cases {
        assert_eq!(shown(list), expected);
    }
}

#[test]
fn transformers_of_every_style() {
    let two: &[u64] = &[4, 6];
    let cases: [(&[&str], &[&str]); 6] = [
        (
            &[
                "bert.embeddings.word_embeddings.weight",
                "bert.embeddings.position_embeddings.weight",
                "bert.embeddings.token_type_embeddings.weight",
                "bert.encoder.layer.0.attention.self.query.weight",
                "bert.encoder.layer.11.attention.output.dense.weight",
                "bert.encoder.layer.0.intermediate.dense.weight",
                "bert.encoder.layer.0.output.dense.weight",
                "bert.pooler.dense.weight",
                "cls.predictions.decoder.weight",
                "classifier.weight",
            ],
            &[
                "embedding",
                "embedding.position",
                "embedding.token_type",
                "layer0.attention.query",
                "layer11.attention.output",
                "layer0.mlp.up",
                "layer0.mlp.down",
                "bert.pooler.dense",
                "softmax",
                "classifier",
            ],
        ),
        (
            &[
                "model.embed_tokens.weight",
                "model.layers.3.self_attn.q_proj.weight",
                "model.layers.3.self_attn.o_proj.weight",
                "model.layers.3.mlp.gate_proj.weight",
                "model.layers.3.mlp.down_proj.weight",
                "model.layers.3.block_sparse_moe.experts.7.w2.weight",
                "model.layers.3.block_sparse_moe.gate.weight",
                "lm_head.weight",
            ],
            &[
                "embedding",
                "layer3.attention.query",
                "layer3.attention.output",
                "layer3.mlp.gate",
                "layer3.mlp.down",
                "layer3.mlp.expert7.down",
                "layer3.mlp.router",
                "softmax",
            ],
        ),
        (
            &[
                "shared.weight",
                "encoder.block.0.layer.0.SelfAttention.q.weight",
                "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
                "decoder.block.0.layer.1.EncDecAttention.v.weight",
                "decoder.block.0.layer.2.DenseReluDense.wo.weight",
                "decoder.embed_tokens.weight",
            ],
            &[
                "embedding",
                "encoder.layer0.attention.query",
                "encoder.layer0.attention.relative_attention_bias",
                "encoder.layer0.mlp.gate",
                "decoder.layer0.cross_attention.value",
                "decoder.layer0.mlp.down",
                "decoder.embedding",
            ],
        ),
        (
            &[
                "model.encoder.embed_tokens.weight",
                "model.encoder.layers.0.self_attn.k_proj.weight",
                "model.decoder.layers.0.encoder_attn.out_proj.weight",
                "model.decoder.layers.0.fc1.weight",
                "model.decoder.embed_positions.weight",
            ],
            &[
                "encoder.embedding",
                "encoder.layer0.attention.key",
                "decoder.layer0.cross_attention.output",
                "decoder.layer0.mlp.up",
                "decoder.embedding.position",
            ],
        ),
        (
            &[
                "text_model.encoder.layers.0.self_attn.v_proj.weight",
                "vision_model.encoder.layers.0.mlp.fc2.weight",
                "swin.layers.1.blocks.2.attn.qkv.weight",
            ],
            &[
                "text_model.encoder.layer0.attention.value",
                "vision_model.encoder.layer0.mlp.down",
                "swin.layer1.block2.attention.qkv",
            ],
        ),
        (
            &["layers.0.weight", "layers.2.weight", "features.0.weight", "fc.weight", "W"],
            &["layer0", "layer2", "features.0", "classifier", "W"],
        ),
    ];
    for (names, expected) in cases {
        let list: Vec<(&str, &[u64])> = names.iter().map(|n| (*n, two)).collect();
        assert_eq!(shown(&list), expected);
    }
}

#[test]
fn what_is_no_weight_says_why() {
    let list: Vec<(&str, &[u64])> = vec![
        ("h.0.ln_1.weight", &[4]),
        ("h.0.attn.bias", &[1, 1, 8, 8]),
        ("h.0.attn.c_attn.bias", &[12]),
        ("bn1.weight", &[4]),
        ("bn1.running_mean", &[4]),
        ("final_logits_bias", &[1, 9]),
        ("inst_norm.weight", &[1, 4, 1, 1]),
        ("conv.weight", &[8, 4, 3, 3]),
        ("scale", &[]),
        ("empty.weight", &[0, 3]),
        ("pos.pe", &[1, 9, 4]),
    ];
    let expected = [
        "-norm layer0.ln_1",
        "-causal mask",
        "-bias layer0.attention.qkv",
        "-norm bn1",
        "-running statistics",
        "-bias final_logits_bias",
        "-norm inst_norm",
        "conv",
        "-1-D scale",
        "-no elements",
        "-computed positions",
    ];
    assert_eq!(shown(&list), expected);
    let mut other = tensors(&[("ids", &[2, 2])]);
    other[0].dtype = Dtype::Other("I64".into(), 64);
    assert!(matches!(&roles(&other).tensors[0], Role::Never(reason) if reason == "I64"));
}

#[test]
fn gpt2_stores_its_matrices_the_other_way_round() {
    let order = |name: &str, shape: &[u64], all: List| {
        let list: Vec<_> = all.iter().copied().chain([(name, shape)]).collect();
        match roles(&tensors(&list)).tensors.pop().unwrap() {
            Role::Weight(parts) => (parts[0].rows, parts[0].cols, parts[0].order),
            other => panic!("{other:?}"),
        }
    };
    let (gpt2, nano): (List, List) = (&[("h.0.attn.c_attn.weight", &[4, 12])], &[("h.0.attn.c_attn.weight", &[12, 4])]);
    assert_eq!(order("h.0.mlp.c_fc.weight", &[4, 16], gpt2), (16, 4, Order::ColumnMajor));
    assert_eq!(order("h.0.attn.c_proj.weight", &[4, 4], gpt2), (4, 4, Order::ColumnMajor));
    assert_eq!(order("wte.weight", &[50, 4], gpt2), (50, 4, Order::RowMajor));
    assert_eq!(order("h.0.mlp.c_fc.weight", &[16, 4], nano), (16, 4, Order::RowMajor));
}
