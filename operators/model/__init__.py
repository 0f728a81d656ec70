"""Texts → vectors: the protocol of an embedder, and the transformer; the only import of torch.

`protocol` has no heavy imports; `transformer` implements it with `encoder` and `tokenizer`. `onednn`
and `packed_attention` make it faster on a CPU, `files` reads a model's settings, `batches` sorts texts
into batches. `chunks` cuts long texts, and `text_vectors` embeds each text once. May import: changes,
contract, telemetry, crash_points, errors.
"""

__all__ = ["encoder", "files", "onednn", "protocol", "text_vectors", "transformer"]
