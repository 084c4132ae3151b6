{{/* What can't work fails here, each with a sentence that says what to set. */}}

{{- define "halops.checks" -}}
{{- include "halops.checks.given" . -}}
{{- include "halops.checks.source" . -}}
{{- include "halops.checks.closed" . -}}
{{- include "halops.checks.memory" . -}}
{{- end -}}

{{- define "halops.checks.given" -}}
{{- $v := .Values -}}
{{- if not $v.image -}}
{{- fail "image is needed: the serve image by digest, such as registry.example/ops/halops-serve@sha256:... (halops images --push --only serve)" -}}
{{- end -}}
{{- if and (not $v.auth.secret) (not $v.auth.disabled) -}}
{{- fail "auth.secret is needed: the Secret with the API keys. Or set auth.disabled: \"I understand that everyone who can reach this server may use it\"" -}}
{{- end -}}
{{- if and $v.auth.secret $v.auth.disabled -}}
{{- fail "auth.secret and auth.disabled exclude each other" -}}
{{- end -}}
{{- if and (not (has $v.server.cacheTypeV (list "f32" "f16" "bf16"))) (not $v.server.flashAttn) -}}
{{- fail (printf "server.cacheTypeV %s needs server.flashAttn" $v.server.cacheTypeV) -}}
{{- end -}}
{{- if and $v.metrics.serviceMonitor $v.auth.secret (not $v.metrics.secret) -}}
{{- fail "metrics.secret is needed with metrics.serviceMonitor: the Secret with the one API key that Prometheus sends" -}}
{{- end -}}
{{- if and (eq $v.autoscaling.type "keda") (not $v.autoscaling.prometheus) -}}
{{- fail "autoscaling.prometheus is needed with autoscaling.type keda: Prometheus' address" -}}
{{- end -}}
{{- if and (ne $v.autoscaling.type "none") (lt (int $v.autoscaling.maxReplicas) (int $v.autoscaling.minReplicas)) -}}
{{- fail "autoscaling.maxReplicas is less than autoscaling.minReplicas" -}}
{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs is needed with httpRoute.enabled: the Gateway" -}}
{{- end -}}
{{- if and $v.ingress.enabled (not (and $v.ingress.host $v.ingress.tlsSecret)) -}}
{{- fail "ingress.host and ingress.tlsSecret are needed with ingress.enabled: without TLS keys and conversations can be read on the way" -}}
{{- end -}}
{{- end -}}

{{- define "halops.checks.source" -}}
{{- $m := .Values.model -}}
{{- $a := .Values.adapter -}}
{{- if eq $m.source "url" -}}
{{- if not $m.url -}}{{- fail "model.url is needed with model.source url: s3://bucket/key or https://..." -}}{{- end -}}
{{- if not $m.sha256 -}}{{- fail "model.sha256 is needed with model.source url: sha256sum FILE prints it" -}}{{- end -}}
{{- else -}}
{{- if not $m.file -}}{{- fail (printf "model.file is needed with model.source %s: the file's path in there" $m.source) -}}{{- end -}}
{{- if and (eq $m.source "claim") (not $m.claim) -}}{{- fail "model.claim is needed with model.source claim" -}}{{- end -}}
{{- if and (eq $m.source "image") (not $m.image) -}}{{- fail "model.image is needed with model.source image: NAME@sha256:..." -}}{{- end -}}
{{- if contains ".." $m.file -}}{{- fail "model.file: .. leads out of the volume" -}}{{- end -}}
{{- end -}}
{{- if and $a.url $a.file -}}{{- fail "adapter.url and adapter.file exclude each other" -}}{{- end -}}
{{- if and $a.url (not $a.sha256) -}}{{- fail "adapter.sha256 is needed with adapter.url" -}}{{- end -}}
{{- if and $a.file (eq $m.source "url") -}}{{- fail "adapter.file needs model.source claim or image; with url, set adapter.url" -}}{{- end -}}
{{- if and (include "halops.fetches" .) (not .Values.fetch.image) -}}
{{- fail "fetch.image is needed to fetch from a URL: the merge image by digest (halops images --push --only merge)" -}}
{{- end -}}
{{- end -}}

{{/* Arguments that would open what this chart closes, or undo what it checks. */}}
{{- define "halops.checks.closed" -}}
{{- $opens := list
  "--slots" "--slot-save-path" "--ui" "--webui" "--ui-mcp-proxy" "--webui-mcp-proxy" "--props" "--tools" "--agent" "-ag"
  "--mcp-servers-json" "--mcp-servers-config" "--cors-origins" "--cors-credentials" "--media-path" "--path" "--models-dir"
  "--cache-ram" "-cram" "--cache-idle-slots" "--log-prompts-dir" "--log-file" "-lv" "--verbosity" "--log-verbosity" "-v"
  "--verbose" "--log-verbose" -}}
{{- $own := list
  "--api-key" "--api-key-file" "--host" "--port" "--api-prefix" "--model" "-m" "--lora" "--lora-scaled" "--ctx-size" "-c"
  "--parallel" "-np" "--n-gpu-layers" "-ngl" "--gpu-layers" "--fit" "-fit" "--device" "-dev" -}}
{{- range .Values.server.extraArgs -}}
{{- $flag := splitList "=" . | first -}}
{{- if has $flag $opens -}}
{{- fail (printf "server.extraArgs: %s would open what this chart closes" $flag) -}}
{{- else if has $flag $own -}}
{{- fail (printf "server.extraArgs: %s has a value of its own: see the README" $flag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "halops.checks.memory" -}}
{{- if and .Values.gpu.count .Values.gpu.memoryGiB -}}
{{- if not .Values.model.bytes -}}
{{- fail "model.bytes is needed to check that the model fits into gpu.memoryGiB (python -m halops.serving.describe FILE). gpu.memoryGiB: 0 goes without the check" -}}
{{- end -}}
{{- $m := include "halops.memory" . | fromJson -}}
{{- if gt $m.needed $m.declared -}}
{{- fail (printf "the model doesn't fit: weights %.0f MiB + KV cache %.0f MiB (%d x %d tokens) + buffers %.0f MiB = %.0f MiB, and gpu.count x gpu.memoryGiB is %.0f MiB. Set a smaller server.parallel or server.ctxSize, server.cacheTypeK and cacheTypeV q8_0, a smaller file, or a larger gpu.memoryGiB" $m.weights $m.kv (int .Values.server.parallel) (int .Values.server.ctxSize) $m.buffers $m.needed $m.declared) -}}
{{- end -}}
{{- end -}}
{{- end -}}
