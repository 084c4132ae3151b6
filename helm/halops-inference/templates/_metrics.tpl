{{/* Which series are this release's: those of the Service that always selects its own pods. */}}
{{- define "halops.series" -}}
namespace="{{ .Release.Namespace }}",service="{{ include "halops.name" . }}-pods"
{{- end -}}

{{/* Requests in work and waiting, of each pod. */}}
{{- define "halops.inWork" -}}
llamacpp:requests_processing{ {{- include "halops.series" . -}} } + llamacpp:requests_deferred{ {{- include "halops.series" . -}} }
{{- end -}}
