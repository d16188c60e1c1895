{{- define "kvcluster.name" -}}
{{- if contains "kv-operator" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-operator" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "kvcluster.selector" -}}
app.kubernetes.io/name: kv-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kvcluster.labels" -}}
{{ include "kvcluster.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: kvcluster
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}
