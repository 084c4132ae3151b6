{{/* Where the model's files are, and how they get there. Fetched ones are in /models by digest, others in /source. */}}

{{/* Not empty if something is fetched. */}}
{{- define "halops.fetches" -}}
{{- if or (eq .Values.model.source "url") .Values.adapter.url }}yes{{ end -}}
{{- end -}}

{{- define "halops.modelPath" -}}
{{- if eq .Values.model.source "url" -}}/models/{{ .Values.model.sha256 }}.gguf{{- else -}}/source/{{ .Values.model.file }}{{- end -}}
{{- end -}}

{{/* Empty without an adapter. */}}
{{- define "halops.adapterPath" -}}
{{- if .Values.adapter.url -}}/models/{{ .Values.adapter.sha256 }}.gguf{{- else if .Values.adapter.file -}}/source/{{ .Values.adapter.file }}{{- end -}}
{{- end -}}

{{- define "halops.modelMounts" -}}
{{- if include "halops.fetches" . }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- if ne .Values.model.source "url" }}
- {name: source, mountPath: /source, readOnly: true}
{{- end }}
{{- end -}}

{{- define "halops.modelVolumes" -}}
{{- if include "halops.fetches" . }}
- name: models
  {{- if or .Values.cache.claim .Values.cache.storageClass }}
  persistentVolumeClaim:
    claimName: {{ .Values.cache.claim | default (printf "%s-cache" (include "halops.name" .)) }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .Values.cache.size }}
  {{- end }}
{{- end }}
{{- if eq .Values.model.source "claim" }}
- name: source
  persistentVolumeClaim:
    claimName: {{ .Values.model.claim }}
    readOnly: true
{{- else if eq .Values.model.source "image" }}
- name: source
  image:
    reference: {{ .Values.model.image }}
    pullPolicy: {{ .Values.imagePullPolicy }}
{{- end }}
{{- end -}}

{{- define "halops.initContainers" -}}
{{- if include "halops.fetches" . }}
- name: fetch
  image: {{ .Values.fetch.image }}
  imagePullPolicy: {{ .Values.imagePullPolicy }}
  args:
    - -m
    - halops.serving.fetch
    - --folder=/models
    - --keep={{ int .Values.cache.keep }}
    {{- if eq .Values.model.source "url" }}
    - --file
    - {{ .Values.model.sha256 | quote }}
    - {{ .Values.model.url | quote }}
    {{- end }}
    {{- if .Values.adapter.url }}
    - --file
    - {{ .Values.adapter.sha256 | quote }}
    - {{ .Values.adapter.url | quote }}
    {{- end }}
  env: {{- include "halops.fetchEnv" . | nindent 4 }}
  resources: {{- toYaml .Values.fetch.resources | nindent 4 }}
  securityContext: {{- include "halops.securityContext" . | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    - {name: models, mountPath: /models}
    - {name: tmp, mountPath: /tmp}
    {{- if .Values.fetch.caConfigMap }}
    - {name: ca, mountPath: /etc/halops/ca, readOnly: true}
    {{- end }}
{{- end }}
{{- if and (ne .Values.model.source "url") .Values.model.sha256 }}
- name: check
  image: {{ .Values.image }}
  imagePullPolicy: {{ .Values.imagePullPolicy }}
  command: [/usr/bin/tini, --, bash, /opt/halops/digest.sh]
  args: [{{ include "halops.modelPath" . | quote }}, {{ .Values.model.sha256 | quote }}]
  resources: {{- toYaml .Values.fetch.resources | nindent 4 }}
  securityContext: {{- include "halops.securityContext" . | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    - {name: source, mountPath: /source, readOnly: true}
    - {name: scripts, mountPath: /opt/halops, readOnly: true}
{{- end }}
{{- end -}}

{{- define "halops.fetchEnv" -}}
- {name: HOME, value: /tmp}
- {name: PYTHONUNBUFFERED, value: "1"}
{{- with .Values.fetch.s3Endpoint }}
- {name: AWS_ENDPOINT_URL_S3, value: {{ . | quote }}}
{{- end }}
{{- with .Values.fetch.s3Region }}
- {name: AWS_REGION, value: {{ . | quote }}}
{{- end }}
{{- with .Values.fetch.s3Secret }}
- {name: AWS_ACCESS_KEY_ID, valueFrom: {secretKeyRef: {name: {{ . }}, key: AWS_ACCESS_KEY_ID}}}
- {name: AWS_SECRET_ACCESS_KEY, valueFrom: {secretKeyRef: {name: {{ . }}, key: AWS_SECRET_ACCESS_KEY}}}
- {name: AWS_SESSION_TOKEN, valueFrom: {secretKeyRef: {name: {{ . }}, key: AWS_SESSION_TOKEN, optional: true}}}
{{- end }}
{{- with .Values.fetch.httpsSecret }}
- {name: HALOPS_FETCH_TOKEN, valueFrom: {secretKeyRef: {name: {{ . }}, key: token}}}
{{- end }}
{{- if .Values.fetch.caConfigMap }}
- {name: SSL_CERT_FILE, value: /etc/halops/ca/ca.crt}
- {name: AWS_CA_BUNDLE, value: /etc/halops/ca/ca.crt}
{{- end }}
{{- with .Values.fetch.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What `restricted` asks of every container. */}}
{{- define "halops.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
