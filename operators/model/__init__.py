"""Texts → vectors: the protocol of an embedder, and the transformer; the only import of torch.

`protocol` has no heavy imports; `transformer` implements it with `encoder` and `tokenizer`. What a
model says of itself is read by `files`, `own_settings`, `prompts` and `architecture`; `weights` loads
it, `trials` tries it, and all of them refuse it rather than embed otherwise than its authors meant.
`onednn` and `packed_attention` make it faster on a CPU, `batches` sorts texts into batches. `chunks`
cuts long texts, and `text_vectors` embeds each text once. May import: changes, contract, telemetry,
crash_points, errors.
"""

__all__ = ["encoder", "files", "onednn", "protocol", "text_vectors", "transformer"]
