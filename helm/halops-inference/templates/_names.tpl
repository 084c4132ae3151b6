{{/* Names and labels. */}}

{{- define "halops.name" -}}
{{- $name := .Values.fullnameOverride | default .Release.Name -}}
{{- if gt (len $name) 47 -}}
{{- fail (printf "the name %q has more than 47 characters: install under a shorter one, or set fullnameOverride" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* What the Deployment, its budget and its policies select by; a Deployment's can't be changed. */}}
{{- define "halops.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "halops.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: halops
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "halops.track" -}}
{{- .Values.track | default .Release.Name -}}
{{- end -}}

{{- define "halops.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "halops.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* Annotations that say what is served and what it was made from. */}}
{{- define "halops.provenance" -}}
{{- with .Values.model.sha256 }}
halops.dev/gguf-sha256: {{ . | quote }}
{{- end }}
{{- with .Values.adapter.sha256 }}
halops.dev/adapter-gguf-sha256: {{ . | quote }}
{{- end }}
{{- range $key, $value := .Values.provenance }}
halops.dev/{{ $key }}: {{ $value | quote }}
{{- end }}
{{- end -}}
