{{/*
GPU memory in MiB, as JSON: weights, kv, buffers, needed, declared.

KV cache: keys and values of every token of every slot in every layer,
    parallel x ctxSize x layers x kvHeads x headDim x (bytes of K + bytes of V)
as llama.cpp allocates it (src/llama-kv-cache.cpp); bytes of a type are its block's, scales included (ggml-common.h).
Buffers: the logits of one physical batch in fp32, and 0.45 GiB for CUDA's context and workspaces, as halops/memory.py has
it: 5,147 MiB for Qwen2.5-7B in Q4_K_M at 4096 tokens, where 5,149 were measured on an H100. Here it comes to some 290 MiB
more: the embedding table, which stays on the host, is counted, since its size isn't known.
*/}}
{{- define "halops.memory" -}}
{{- $v := .Values -}}
{{- $d := $v.model.dimensions -}}
{{- $bytes := dict "f32" 4.0 "f16" 2.0 "bf16" 2.0 "q8_0" 1.0625 "q5_1" 0.75 "q5_0" 0.6875 "q4_1" 0.625 "q4_0" 0.5625 "iq4_nl" 0.5625 -}}
{{- $pair := addf (get $bytes $v.server.cacheTypeK) (get $bytes $v.server.cacheTypeV) -}}
{{- $tokens := mulf $v.server.parallel $v.server.ctxSize -}}
{{- $share := divf (include "halops.layers" .) (add1 $d.layers) -}}
{{- $kv := divf (mulf $tokens $d.layers $d.kvHeads $d.headDim $pair $share) 1048576.0 -}}
{{- $weights := divf (mulf (addf $v.model.bytes $v.adapter.bytes) $share) 1048576.0 -}}
{{- $buffers := addf (divf (mulf $v.server.ubatchSize $d.vocabulary 4) 1048576.0) 460.8 -}}
{{- $declared := mulf $v.gpu.count $v.gpu.memoryGiB 1024.0 -}}
{{- dict "weights" $weights "kv" $kv "buffers" $buffers "needed" (addf $weights $kv $buffers) "declared" $declared | toJson -}}
{{- end -}}

{{/* How many layers go to the GPU: the decoder's and the output layer, or fewer. */}}
{{- define "halops.layers" -}}
{{- ternary (min .Values.gpu.layers (add1 .Values.model.dimensions.layers)) 0 (gt (int .Values.gpu.count) 0) -}}
{{- end -}}

{{- define "halops.expectedLayers" -}}
{{- ternary (include "halops.layers" .) (int .Values.gpu.expectedLayers | toString) (lt (int .Values.gpu.expectedLayers) 0) -}}
{{- end -}}
