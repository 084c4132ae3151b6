{{/* llama-server's command line. Nothing that changes an answer is left to a default or to the environment. */}}
{{- define "halops.args" -}}
{{- $s := .Values.server -}}
{{- $args := list
  "--model" (include "halops.modelPath" .)
  "--alias" .Values.model.alias
  "--host" "0.0.0.0"
  "--port" "8080"
  "--ctx-size" (mul $s.ctxSize $s.parallel)
  "--parallel" (int $s.parallel)
  "--threads" (int $s.threads)
  "--batch-size" (int $s.batchSize)
  "--ubatch-size" (int $s.ubatchSize)
  "--cache-type-k" $s.cacheTypeK
  "--cache-type-v" $s.cacheTypeV
  "--flash-attn" (ternary "on" "off" $s.flashAttn)
  (ternary "--cont-batching" "--no-cont-batching" $s.contBatching)
  (ternary "--cache-prompt" "--no-cache-prompt" $s.cachePrompt)
  "--timeout" (int $s.timeoutSeconds)
  "--threads-http" (int $s.httpThreads)
  "--jinja" -}}
{{- if ne $s.chatTemplate "model" -}}
{{- $args = concat $args (list "--chat-template" $s.chatTemplate) -}}
{{- end -}}
{{- with include "halops.adapterPath" . -}}
{{- $args = concat $args (list "--lora-scaled" (printf "%s:%v" . $.Values.adapter.scale)) -}}
{{- end -}}
{{- if .Values.gpu.count -}}
{{- /* At this level it says how many layers went to the GPU; no level below 5 logs what users write. */ -}}
{{- $args = concat $args (list "--n-gpu-layers" (int .Values.gpu.layers) "--verbosity" "4") -}}
{{- else -}}
{{- $args = concat $args (list "--n-gpu-layers" "0" "--device" "none") -}}
{{- end -}}
{{- if .Values.auth.secret -}}
{{- $args = concat $args (list "--api-key-file" "/etc/halops/keys/keys") -}}
{{- end -}}
{{- /* --fit may shrink the context without a word; the prompt cache in RAM can hand one user's text to another; the rest is
open by default, and nobody needs it. Metrics are for draining and Prometheus, and ask for a key. */ -}}
{{- $args = concat $args (list "--fit" "off" "--offline" "--cache-ram" "0" "--no-cache-idle-slots" "--no-slots" "--no-ui"
  "--cors-origins" "localhost" "--no-cors-credentials" "--metrics" "--log-file" "/run/halops/server.log") -}}
{{- range concat $args $s.extraArgs }}
- {{ toString . | quote }}
{{- end }}
{{- end -}}
