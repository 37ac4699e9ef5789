#!/usr/bin/env bash
# The promise to authors of methods, kept true: a new method is one new folder and nothing else.
#   1. the folder of the smallest method is copied to a new name in a copy of the tree, built and run through a recipe;
#      nothing but that folder may differ;
#   2. `compress plugin new` writes a crate outside the workspace that builds, passes the suite and runs by its recipe.
# usage: .ci/promise.sh [path of a built compress]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
compress=${1:-$target/release/compress}
[ -x "$compress" ] || { echo "promise.sh: $compress is not built; cargo build --release first" >&2; exit 1; }
compress=$(cd "$(dirname "$compress")" && pwd)/$(basename "$compress")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case $(uname) in Darwin) library=libcopied.dylib ;; *) library=libcopied.so ;; esac

echo "promise: a copied method is one new folder"
# The smallest method: the fewest lines of Rust in its src.
method=$(for m in "$root"/plugins/*/; do
    name=$(basename "$m")
    [ "$name" = sdk ] || [ "$name" = testkit ] || echo "$(cat "$m"src/*.rs | wc -l) $name"
done | sort -n | head -1 | cut -d' ' -f2)
tree=$work/tree
mkdir -p "$tree"
(cd "$root" && git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - 2>/dev/null || true) | tar -xf - -C "$tree"
cp -r "$tree" "$work/before"
new=$tree/plugins/copied
cp -r "$tree/plugins/$method" "$new"
# Its name in the manifest and in the CARD, and that it is a workspace of its own: so no list of members is touched.
sed -i.bak -e "s/^name = .*/name = \"copied\"/" -e "s/^\(version\|edition\|rust-version\|license\|publish\)\.workspace = true//" \
    -e "s/^\[package\]/[package]\nversion = \"0.1.0\"\nedition = \"2024\"/" -e "/^\[lints\]/,/^$/d" \
    -e "s|^compress-sdk = .*|compress-sdk = { path = \"../sdk\" }|" \
    -e "s|^compress-testkit = .*|compress-testkit = { path = \"../testkit\" }|" "$new/Cargo.toml"
printf '\n[workspace]\n' >>"$new/Cargo.toml"
find "$new" -name '*.rs' -exec sed -i.bak -e "s/name: \"$method\"/name: \"copied\"/" -e "s/compress_${method//-/_}/copied/g" {} +
find "$new" -name '*.bak' -delete
(cd "$new" && CARGO_TARGET_DIR=$work/target cargo build --release --quiet && CARGO_TARGET_DIR=$work/target cargo test --quiet)
rm -f "$new/Cargo.lock"
cp "$root/examples/dates/model.onnx" "$work/model.onnx"
cat >"$work/pipeline.toml" <<END
model  = "model.onnx"
output = "copied.onnx"
mask   = "copied.masks.safetensors"
[plugins]
libraries = ["target/release/$library"]
[[stage]]
method = "copied"
amount = "80%"
END
sed -e "s/copied\.\(onnx\|masks\)/built-in.\1/" -e "s/\"copied\"/\"$method\"/" -e '/plugins/d' -e '/libraries/d' \
    "$work/pipeline.toml" >"$work/built-in.toml"
"$compress" "$work/pipeline.toml" --quiet
"$compress" "$work/built-in.toml" --quiet
cmp "$work/copied.onnx" "$work/built-in.onnx" # the same method, the same bytes
touched=$(diff -rq "$work/before" "$tree" || true)
if [ "$touched" != "Only in $tree/plugins: copied" ]; then
    echo "promise.sh: more than one new folder was touched:" >&2
    echo "$touched" >&2
    exit 1
fi

echo "promise: compress plugin new"
cd "$work"
"$compress" plugin new my-method >/dev/null
cd my-method
unset CARGO_TARGET_DIR
cargo build --release --quiet
cargo test --quiet
"$compress" pipeline.toml --quiet
[ -s model-80.safetensors ]
echo "promise: kept"
