//! What the words of a path mean.

/// `source` or `target`, from the first segment that says so.
pub fn side(path: &[&str]) -> Option<&'static str> {
    path.iter().find_map(|segment| {
        let lower = segment.to_ascii_lowercase();
        lower.split('_').find_map(|word| match word {
            "src" | "source" | "enc" | "encoder" => Some("source"),
            "tgt" | "trg" | "target" | "dec" | "decoder" => Some("target"),
            _ => None,
        })
    })
}

/// Of an embedding what it embeds: `""` for tokens, `"position"`, `"token_type"`, `"patch"`.
pub fn embedding(path: &[&str]) -> Option<&'static str> {
    let lower: Vec<String> = path.iter().map(|s| s.to_ascii_lowercase()).collect();
    let module = match &lower[..] {
        [module @ .., leaf] if leaf == "weight" || leaf == "kernel" || leaf == "embedding" => module,
        [.., leaf] if leaf.contains("embed") => &lower[..],
        _ => return None,
    };
    let last = module.last().map_or("", String::as_str);
    let named = last.contains("embed") && !last.contains("unembed") && !["embed_out", "embed_in"].contains(&last);
    let is = named
        || matches!(last, "wte" | "wpe" | "shared" | "lut" | "emb" | "embed_in" | "relative_attention_bias")
        || last.ends_with("_emb")
        || lower.last().is_some_and(|l| l == "embedding")
        || (last.chars().all(|c| c.is_ascii_digit()) && module.len() > 1 && module[module.len() - 2].contains("embed"))
        || (last == "projection" && module.len() > 1 && module[module.len() - 2].contains("patch_embed"));
    let all = lower.join(".");
    is.then_some(match () {
        () if last == "wpe" || last.contains("pos") || last == "relative_attention_bias" => "position",
        () if last.contains("type") || last.contains("segment") => "token_type",
        () if all.contains("patch") => "patch",
        () => "",
    })
}

/// Whether a module is a norm.
pub fn is_norm(path: &[&str]) -> bool {
    path[..path.len().saturating_sub(1)].iter().any(|s| {
        let s = s.to_ascii_lowercase();
        let stem = s.trim_end_matches(|c: char| c.is_ascii_digit());
        s.contains("norm") || matches!(stem, "ln" | "bn") || s.starts_with("ln_") || s.starts_with("bn_")
    })
}

/// Whether a module belongs to attention.
pub fn is_attention(module: &[&str]) -> bool {
    module.iter().any(|s| {
        let s = s.to_ascii_lowercase();
        s.contains("attn") || s.contains("attention")
    })
}

/// Where a list of layers stands in a path, and the layer's number.
pub fn layer(path: &[&str]) -> Option<(usize, u64)> {
    let lists = ["layer", "layers", "h", "block", "blocks", "resblocks", "decoder_layers", "encoder_layers"];
    let at = (0..path.len().saturating_sub(1)).find(|&i| lists.contains(&path[i]) && number(path[i + 1]).is_some())?;
    Some((at, number(path[at + 1])?))
}

fn number(segment: &str) -> Option<u64> {
    segment.bytes().all(|b| b.is_ascii_digit()).then(|| segment.parse().ok()).flatten()
}

/// What a module within a layer is: `attention.query`, `mlp.down`, or its path.
pub fn layer_role(rest: &[&str]) -> String {
    // A list within a layer is `block1.attention.query`; T5's inner `layer.0` says nothing that the next word does not.
    if let Some((at, number)) = layer(rest).filter(|(at, _)| rest[*at] != "layer") {
        let before = rest[..at].iter().map(|s| format!("{s}.")).collect::<String>();
        let inner = layer_role(&rest[at + 2..]);
        let dot = if inner.is_empty() { "" } else { "." };
        return format!("{before}{}{number}{dot}{inner}", rest[at].trim_end_matches('s'));
    }
    let lower: Vec<String> = rest.iter().map(|s| s.to_ascii_lowercase()).collect();
    let has = |words: &[&str]| lower.iter().any(|s| words.iter().any(|w| s.contains(w)));
    let leaf = lower.last().map_or("", String::as_str);
    if is_norm(rest) || has(&["norm"]) {
        return rest.join(".");
    }
    if let Some(at) = lower.iter().position(|s| s.contains("attn") || s.contains("attention")) {
        let cross = ["encoder_attn", "encoder_attention", "crossattention", "cross_attn", "encdecattention"];
        let name =
            if has(&cross) || has(&["cross_attention", "multihead_attn"]) { "cross_attention" } else { "attention" };
        let role = match leaf {
            "q_proj" | "query" | "q" | "q_lin" | "wq" | "to_q" | "query_proj" => "query",
            "k_proj" | "key" | "k" | "k_lin" | "wk" | "to_k" | "key_proj" => "key",
            "v_proj" | "value" | "v" | "v_lin" | "wv" | "to_v" | "value_proj" => "value",
            "o_proj" | "out_proj" | "o" | "dense" | "out_lin" | "c_proj" | "wo" | "proj" | "to_out" | "out" => "output",
            "c_attn" | "qkv" | "qkv_proj" | "query_key_value" | "in_proj_weight" | "in_proj_bias" | "in_proj"
            | "wqkv" | "w_pack" => "qkv",
            _ => &rest[at + 1..].join("."),
        };
        return if role.is_empty() { name.to_string() } else { format!("{name}.{role}") };
    }
    let of = |words: &[&str]| lower.len() > 1 && words.contains(&lower[lower.len() - 2].as_str());
    let role = match leaf {
        "up_proj" | "fc1" | "c_fc" | "wi" | "wi_1" | "lin1" | "linear1" | "dense_h_to_4h" | "w3" | "w_1" | "fc_in" => {
            "up"
        }
        "gate_proj" | "w1" | "wi_0" => "gate",
        "down_proj" | "fc2" | "c_proj" | "wo" | "lin2" | "linear2" | "dense_4h_to_h" | "w2" | "w_2" | "fc_out" => {
            "down"
        }
        "gate_up_proj" => "gate_up",
        "dense" if of(&["intermediate"]) => "up",
        "dense" if of(&["output"]) => "down",
        "router" | "gate" => "router",
        _ => return rest.join("."),
    };
    let expert = lower.iter().position(|s| s == "experts").and_then(|i| number(rest.get(i + 1)?));
    expert.map_or(format!("mlp.{role}"), |n| format!("mlp.expert{n}.{role}"))
}

/// What makes logits over a vocabulary is `softmax`, over labels `classifier`.
pub fn head(module: &[&str]) -> Option<&'static str> {
    let lower: Vec<String> = module.iter().map(|s| s.to_ascii_lowercase()).collect();
    let words: Vec<&str> = lower.iter().map(String::as_str).collect();
    match &words[..] {
        [.., "softmax" | "lm_head" | "generator" | "embed_out" | "output_projection" | "logits" | "unembed"] => {
            Some("softmax")
        }
        [.., "predictions", "decoder"] | ["generator", ..] | ["output"] => Some("softmax"),
        ["classifier" | "classification_head" | "score" | "head" | "heads" | "qa_outputs", ..] => Some("classifier"),
        [_, "classifier" | "classification_head" | "score" | "qa_outputs", ..] | ["fc"] => Some("classifier"),
        _ => None,
    }
}
